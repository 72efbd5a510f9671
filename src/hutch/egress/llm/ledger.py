"""What the calls under way may cost at most, written before they go to the provider, so that a gateway that is killed
counts too much rather than too little when it comes back.

Lines of JSON in a file in memory (a tmpfs): a write takes microseconds, and outlives `kill -9`. It need not outlive a
power cut, in which the sandboxes die with their calls; totals do, in the node's journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from hutch.model import LlmUsage

_COMPACT_AT = 4 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Bound:
    """`owner`, a sandbox or an organisation, has used no more than this; an organisation on that day (UTC, ISO)."""

    owner: str
    day: str
    most: LlmUsage


class Ledger:
    """Of several bounds of one owner and day the last counts. Without a path it writes nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file = -1
        self._size = 0
        self._lines: dict[tuple[str, str], bytes] = {}

    def open(self) -> list[Bound]:
        """Opens or makes it; answers what the last gateway has left. Raises `OSError`."""
        if self._path is None:
            return []
        found = {(bound.owner, bound.day): bound for bound in _read(self._path)}
        self._lines = {key: _line(bound) for key, bound in found.items()}
        self._compact()
        return list(found.values())

    def write(self, bounds: Iterable[Bound]) -> None:
        """They outlive this process when this returns. Raises `OSError`."""
        if self._file < 0:
            return
        for bound in bounds:
            line = self._lines[bound.owner, bound.day] = _line(bound)
            self._size += os.write(self._file, line)
        if self._size > _COMPACT_AT:
            self._compact()

    def forget(self, owner: str, before: str | None = None) -> None:
        """Nothing of this owner is open any more, or was open before a day."""
        gone = [key for key in self._lines if key[0] == owner and (before is None or key[1] < before)]
        for key in gone:
            del self._lines[key]

    def close(self, *, keep: bool = False) -> None:
        """Takes no more; nothing is under way. It is removed, unless something in it is told nowhere else."""
        self._end()
        if self._path is not None and not keep:
            self._path.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _compact(self) -> None:
        """One line an owner and day, in a new file in the place of the old one."""
        assert self._path is not None
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._size = os.write(file, b"".join(self._lines.values())) if self._lines else 0
        os.replace(fresh, self._path)
        self._end()
        self._file = file


def _line(bound: Bound) -> bytes:
    return json.dumps([bound.owner, bound.day, bound.most.model_dump(mode="json")]).encode() + b"\n"


def _read(path: Path) -> Iterator[Bound]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            owner, day, most = json.loads(line)
            yield Bound(str(owner), str(day), LlmUsage.model_validate(most))
        except (ValueError, TypeError):  # the last one, when its writer was killed in its middle
            log.warning("a line of the llm ledger is unreadable", path=str(path))
