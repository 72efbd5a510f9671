"""How a task ended: from what stopped it, how its process ended, and what the agent said."""

from __future__ import annotations

from hutch.agents import Outcome
from hutch.control.views import shorten
from hutch.model import ExecState, TaskResult, TaskState
from hutch.store.readers import ReaderRow
from hutch.store.tasks import TaskRow

_MAX_TEXT = 64 << 10
_MAX_DETAIL = 4 << 10


def conclude(task: TaskRow, reader: ReaderRow) -> TaskResult:
    """The result. A reason to stop counts for more than what the process made of it: the outcome must not depend on
    who was quicker."""
    outcome = Outcome(**reader.outcome)
    exit_state = ExecState.model_validate(reader.exit) if reader.exit is not None else None
    state, error, detail = _verdict(task, outcome, exit_state)
    return TaskResult(
        state=state,
        text=shorten(outcome.text, _MAX_TEXT) if outcome.text is not None else None,
        exit_code=exit_state.exit_code if exit_state is not None else None,
        error=error,
        detail=shorten(detail, _MAX_DETAIL) if detail is not None else None,
    )


def _verdict(task: TaskRow, outcome: Outcome, exit_state: ExecState | None) -> tuple[TaskState, str | None, str | None]:
    if task.stop is not None:
        return TaskState(task.stop["state"]), task.stop.get("error"), task.stop.get("detail")
    if exit_state is None:
        return TaskState.FAILED, "agent_crashed", "the agent's end was not seen"
    if exit_state.breach is not None and exit_state.breach.action != "refused":
        return TaskState.FAILED, "limit_reached", exit_state.breach.message
    if outcome.error is not None:
        return TaskState.FAILED, "agent_failed", outcome.error
    if exit_state.exit_code != 0:
        how = f"by {exit_state.signal}" if exit_state.signal else f"with code {exit_state.exit_code}"
        return TaskState.FAILED, "agent_crashed", f"the agent ended {how}"
    return TaskState.SUCCEEDED, None, None
