"""Which snapshot is meant by a turn of a task."""

from __future__ import annotations

from collections.abc import Mapping

from hutch.control.context import Context
from hutch.errors import Conflict, SnapshotNotFound
from hutch.model import SnapshotReason, SnapshotRecord
from hutch.model.lineage import ancestors, by_age
from hutch.store.sandboxes import SandboxRow
from hutch.store.tasks import TaskRow

_SHOWN = 40


async def checkpoint_of(
    context: Context, row: SandboxRow, task: TaskRow | None, turn: int, tree: Mapping[str, SnapshotRecord]
) -> str:
    """The checkpoint of this turn on the line that the sandbox is on; where that has none, the newest one that was
    left by a rollback. Raises `Conflict`, `SnapshotNotFound`, which names the turns that have one."""
    if task is None:
        raise Conflict(f"{row.id} has no task, and so no turns", hint="Name a snapshot: `hutch timeline` shows them.")
    turns = await context.store.bookmarks.turns(task.id, SnapshotReason.CHECKPOINT)
    kept = {id: number for id, number in turns.items() if id in tree}
    found = [id for id, number in kept.items() if number == turn]
    if not found:
        raise SnapshotNotFound(f"turn {turn} of {task.id} has no checkpoint", hint=_hint(task, set(kept.values())))
    line = _line(row, tree)
    return ([id for id in found if id in line] or found)[-1]


def _line(row: SandboxRow, tree: Mapping[str, SnapshotRecord]) -> set[str]:
    """What the sandbox comes from: the newest of its snapshots and those before it. After a rollback the newest is the
    safety copy of what was left."""
    own = [record for record in by_age(tree.values()) if record.sandbox_id == row.id]
    tip = own[-1].id if own else row.snapshot
    if own and own[-1].reason is SnapshotReason.SAFETY:
        tip = row.snapshot
    if tip is None:
        return set()
    return {tip, *(record.id for record in ancestors(tree, tip))}


def _hint(task: TaskRow, turns: set[int]) -> str:
    if turns:
        shown = ", ".join(str(turn) for turn in sorted(turns)[-_SHOWN:])
        return f"Turns with one: {shown}."
    if task.checkpoints == "off":
        return "It takes none: create it with `checkpoints: turns` (`hutch run --checkpoints turns`)."
    return "None was taken yet."
