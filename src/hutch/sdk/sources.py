"""What can be sent: bytes, text, a file, a path, or anything that gives bytes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from hutch.sdk.tar import CHUNK

Source = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | Iterable[bytes]
"""Text is sent as UTF-8; a `Path` means the file's content."""


def whole(source: object) -> bytes | None:
    """The bytes, where they are in memory already."""
    if isinstance(source, str):
        return source.encode()
    return bytes(source) if isinstance(source, bytes | bytearray | memoryview) else None


def chunks_of(source: Source) -> Iterator[bytes]:
    """The bytes in chunks."""
    data = whole(source)
    if data is not None:
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
    elif isinstance(source, os.PathLike):
        with Path(source).open("rb") as file:
            yield from _read(file)
    elif hasattr(source, "read"):
        yield from _read(cast(IO[bytes], source))
    else:
        yield from cast(Iterable[bytes], source)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(CHUNK):
        yield piece


def save(chunks: Iterator[bytes], to: str | os.PathLike[str] | IO[bytes]) -> int:
    """Write chunks to an open file, or to a path: there whole or not at all. The number of bytes."""
    if not isinstance(to, str | os.PathLike):
        return sum(to.write(chunk) for chunk in chunks)
    path = Path(to)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("xb") as file:
            size = sum(file.write(chunk) for chunk in chunks)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return size
