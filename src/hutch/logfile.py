"""Where log lines go. No caller of a logger is ready for an error of the disk that the log is on."""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO, cast


class _Lossy:
    """What cannot be written, on a full disk or to a terminal that is gone, is lost."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def lossy(file: TextIO) -> TextIO:
    """`file` for a logger: to write to it never fails."""
    return cast("TextIO", _Lossy(file))
