"""Reading request heads and bodies off the wire."""

from __future__ import annotations

from collections.abc import Callable

MAX_HEAD = 64 * 1024
MAX_HEADERS = 128
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

Sink = Callable[[bytes], None]


class BadRequest(Exception):
    """What the peer sent is not HTTP/1.1, or is too large; the connection cannot go on."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """The first lines of a request: method, target and headers (names in lower case)."""

    __slots__ = ("headers", "keep_alive", "method", "target")

    def __init__(self, method: str, target: str, headers: dict[str, str], keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive


def parse_head(raw: bytes) -> Head:
    """Parse everything up to the blank line (which is not in `raw`)."""
    lines = raw.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[1] or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not _TOKEN.issuperset(parts[0]):
        raise BadRequest("malformed request line")
    if len(lines) - 1 > MAX_HEADERS:
        raise BadRequest("too many headers", 431)
    headers = _parse_headers(lines[1:])
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if parts[2] == "HTTP/1.1" else "keep-alive" in connection
    return Head(parts[0], parts[1], headers, keep_alive)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise BadRequest("malformed header")
        value = value.strip(" \t")
        if "\n" in value or "\r" in value or "\0" in value:
            raise BadRequest("malformed header value")
        name = name.lower()
        if name in headers:
            if name == "content-length" and headers[name] != value:
                raise BadRequest("two different content lengths")
            value = value if name == "content-length" else f"{headers[name]}, {value}"
        headers[name] = value
    return headers


class LengthDecoder:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes, sink: Sink) -> bytes:
        """Pass the body's part of `data` on; answers what follows the body."""
        part = data if len(data) <= self._left else data[: self._left]
        self._left -= len(part)
        self.done = self._left == 0
        sink(part)
        return data[len(part) :]


class ChunkedDecoder:
    """A body in chunks. Extensions and trailers are read over."""

    _MAX_LINE = 8 * 1024

    def __init__(self) -> None:
        self._line = bytearray()
        self._left = 0
        self._step = "size"
        self._trailer = 0
        self.done = False

    def feed(self, data: bytes, sink: Sink) -> bytes:
        """Pass the body's part of `data` on; answers what follows the body."""
        at = 0
        while at < len(data) and not self.done:
            if self._step == "data":
                part = data[at : at + self._left]
                self._left -= len(part)
                sink(part)
                at += len(part)
                if not self._left:
                    self._step = "after"
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or None]
            if len(self._line) > self._MAX_LINE:
                raise BadRequest("chunk line too long")
            if not end:
                return b""
            at = end
            line, self._line = bytes(self._line).strip(b"\r\n"), bytearray()
            self._take_line(line)
        return data[at:]

    def _take_line(self, line: bytes) -> None:
        if self._step == "size":
            size = line.partition(b";")[0].strip()
            if not size or len(size) > 15 or not all(byte in b"0123456789abcdefABCDEF" for byte in size):
                raise BadRequest("malformed chunk size")
            self._left = int(size, 16)
            self._step = "data" if self._left else "trailer"
        elif self._step == "after":
            if line:
                raise BadRequest("malformed chunk end")
            self._step = "size"
        else:
            self._trailer += len(line)
            if self._trailer > self._MAX_LINE:
                raise BadRequest("trailers too long", 431)
            self.done = not line


Decoder = LengthDecoder | ChunkedDecoder


def body_decoder(head: Head) -> Decoder:
    """How the request's body is framed. Both ways at once is refused (it is how requests are smuggled)."""
    encoding = head.headers.get("transfer-encoding")
    length = head.headers.get("content-length")
    if encoding is not None:
        if length is not None or encoding.lower() != "chunked":
            raise BadRequest("unsupported transfer encoding")
        return ChunkedDecoder()
    if length is None:
        return LengthDecoder(0)
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise BadRequest("malformed content length")
    return LengthDecoder(int(length))
