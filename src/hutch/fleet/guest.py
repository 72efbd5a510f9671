"""The guest, as the server talks to it. (Signatures first; the bodies follow.)"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class FrameKind(IntEnum):
    """What a frame of a process's output carries."""

    KEEPALIVE = 0
    STDOUT = 1
    STDERR = 2
    PTY = 3
    GAP = 4
    LIMIT = 5
    EXIT = 6


@dataclass(frozen=True)
class Frame:
    """One piece of a process's output. `offset` is the position after it: what to read on from."""

    kind: FrameKind
    offset: int
    payload: bytes


class GuestClient:
    """Typed calls to one sandbox's PID 1."""
