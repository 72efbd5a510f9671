"""Reads a tar stream as it passes: checks it and notes where each file is. The stream comes from a sandbox, so it is
read by a parser that holds nothing but a header: names that lead outside, hard links, devices and headers of great
size are refused, and nothing is ever unpacked here. Symbolic links are let through, and not listed."""

from __future__ import annotations

from dataclasses import dataclass

from hutch.errors import InputFailed

_BLOCK = 512
_MAX_META = 256 << 10
_MAX_FILES = 10_000
_SYMLINK, _DIRECTORY, _LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"2", b"5", b"L", b"K", b"x", b"g"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in the archive."""

    path: str
    size: int
    offset: int
    """Of its first byte in the archive."""


class TarIndex:
    """Feed it everything, then call `close`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.truncated = False
        """There are more files than are listed."""
        self._position = 0
        self._buffer = bytearray()
        self._skip = 0
        self._meta: tuple[bytes, int] | None = None
        self._name: str | None = None
        self._size: int | None = None
        self._ended = False

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises `InputFailed` for what may not be in an outputs archive."""
        view = memoryview(data)
        while view and not self._ended:
            if self._skip:
                step = min(self._skip, len(view))
                self._skip -= step
            else:
                step = min(self._wanted() - len(self._buffer), len(view))
                self._buffer += view[:step]
            self._position += step
            view = view[step:]
            if not self._skip and len(self._buffer) == self._wanted():
                block = bytes(self._buffer)
                self._buffer.clear()
                self._take(block)

    def close(self) -> None:
        """Raises `InputFailed` when the archive was cut."""
        if not self._ended:
            raise InputFailed("the outputs archive broke off")

    def _wanted(self) -> int:
        return _padded(self._meta[1]) if self._meta is not None else _BLOCK

    def _take(self, block: bytes) -> None:
        if self._meta is not None:
            kind, size = self._meta
            self._meta = None
            self._note(kind, block[:size])
        elif not any(block):
            self._ended = True
        else:
            self._header(block)

    def _header(self, block: bytes) -> None:
        kind = block[156:157]
        size = _number(block[124:136])
        if _checksum(block) != _number(block[148:156]):
            raise InputFailed("the outputs archive is broken")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            if not 0 < size <= _MAX_META:
                raise InputFailed("the outputs archive has a header of impossible size")
            self._meta = (kind, size)
            return
        name = self._name if self._name is not None else _name(block)
        size = self._size if self._size is not None else size
        self._name = self._size = None
        path = _checked(name)
        if kind in (b"0", b"\0"):
            self._file(path, size)
        elif kind not in (_DIRECTORY, _SYMLINK):
            raise InputFailed(f"the outputs archive has something that is no file: {name[:200]!r}")

    def _file(self, path: str, size: int) -> None:
        if len(self.entries) < _MAX_FILES:
            self.entries.append(Entry(path, size, self._position))
        else:
            self.truncated = True
        self._skip = _padded(size)

    def _note(self, kind: bytes, body: bytes) -> None:
        if kind == _LONG_NAME:
            self._name = body.rstrip(b"\0").decode(errors="replace")
        elif kind == _PAX:
            records = _pax(body)
            self._name = records.get("path", self._name)
            if "size" in records:
                self._size = _decimal(records["size"])


def _checked(name: str) -> str:
    path = name.removeprefix("./").removesuffix("/")
    if path.startswith("/") or "\0" in path or any(part in ("", "..", ".") for part in path.split("/")):
        raise InputFailed(f"the outputs archive has a file outside: {name[:200]!r}")
    return path


def _pax(body: bytes) -> dict[str, str]:
    records = {}
    while body:
        length_text, _, rest = body.partition(b" ")
        length = _decimal(length_text.decode("latin-1"))
        record = rest[: max(0, length - len(length_text) - 1)]
        key, equals, value = record.rstrip(b"\n").partition(b"=")
        if not equals or length > len(body):
            raise InputFailed("the outputs archive has a broken header")
        records[key.decode(errors="replace")] = value.decode(errors="replace")
        body = body[length:]
    return records


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode(errors="replace")


def _number(field: bytes) -> int:
    """Octal, or (for great sizes) binary with the first bit set."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        text = field.strip(b" \0")
        try:
            number = int(text, 8) if text else 0
        except ValueError as error:
            raise InputFailed("the outputs archive is broken") from error
    if not 0 <= number < 1 << 62:
        raise InputFailed("the outputs archive is broken")
    return number


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InputFailed("the outputs archive has a broken header")
    return int(text)


def _checksum(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * 0x20


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
