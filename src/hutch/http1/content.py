"""The content of a body, without what frames it."""

from __future__ import annotations

from hutch.http1.framing import Chunked, Framing


class Content:
    """Reads one body, piece by piece."""

    def __init__(self, framing: Framing) -> None:
        self.chunked = isinstance(framing, Chunked)
        self._chunks = _Chunks() if self.chunked else None
        self._framing: Framing = self._chunks or framing

    @property
    def done(self) -> bool:
        return self._framing.done

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """What these bytes say, and how many of them are of the body. Trailers are passed over. Raises `BadHead`."""
        taken = self._framing.take(data)
        if self._chunks is None:
            return data[:taken], taken
        content = bytes(self._chunks.content)
        self._chunks.content.clear()
        return content, taken


class _Chunks(Chunked):
    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()

    def _content(self, data: bytes, at: int) -> int:
        self.content += data[at : at + max(0, self._left - 2)]
        return super()._content(data, at)


def chunk(content: bytes) -> bytes:
    """A piece of a body in chunks."""
    return b"%x\r\n%s\r\n" % (len(content), content) if content else b""


LAST_CHUNK = b"0\r\n\r\n"
