"""The `Range` header (RFC 9110): one range of bytes. Malformed ones, and several parts, are ignored, as they may be."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `end`, exclusive."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """The range begins beyond the end of the file."""


def parse_range(header: str | None, size: int) -> Span | None:
    """The span that is asked for of a file of this size; None for the whole. Raises `Unsatisfiable`."""
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        span = Span(max(0, size - int(match[2])), size)
    else:
        span = Span(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)
        if match[2] and int(match[2]) < int(match[1]):
            return None
    if span.start >= span.end:
        raise Unsatisfiable
    return span
