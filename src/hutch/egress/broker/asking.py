"""The requests of one connection: read strictly, one after the other, and written anew with values in them."""

from __future__ import annotations

from collections.abc import Callable

from hutch.egress.broker.refusal import Refused
from hutch.egress.broker.seeking import Seeker, watch
from hutch.egress.broker.swapping import Swapped, Swapper
from hutch.http1.content import LAST_CHUNK, Content, chunk
from hutch.http1.framing import framing_of
from hutch.http1.heads import HOP_BY_HOP, BadHead, Fields, Request, dump_request, length_of, parse_request, values

MAX_HEAD = 64 << 10
_UNREADABLE = {b"accept-encoding", b"sec-websocket-extensions"}
"""What would make the answer so that no value is found in it."""


class Asking:
    """`feed` gives what goes to the host. `host`: what every request must be for (None: somebody else sees to that);
    `port`: if it says one; `readable`: answers are to be looked through. `swapper` is asked for with each request:
    secrets change."""

    def __init__(self, swapper: Callable[[], Swapper], host: str | None, port: int, *, readable: bool = True) -> None:
        self._swapper = swapper
        self._readable = readable
        self._hosts = {host.encode(), f"{host}:{port}".encode()} if host is not None else set()
        self._buffer = bytearray()
        self._searched = 0
        self._body: Content | None = None
        self._watch: Seeker
        self.current: Request | None = None
        """The request whose answer has not come to its end."""
        self.swapped: list[Swapped] = []
        """What was put in since somebody looked."""
        self.switched = False
        """Another protocol is spoken from here on."""

    @property
    def whole(self) -> bool:
        """Whether all of the current request has come."""
        return self._body is None

    @property
    def waiting(self) -> int:
        """Bytes that wait for the answer to the current request."""
        return len(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Raises `Refused`."""
        self._buffer += data
        passed = bytearray()
        try:
            while self._buffer and (passing := self._step()) is not None:
                passed += passing
        except BadHead as error:
            raise Refused(400, f"its request is not understood: {error}") from error
        return bytes(passed)

    def answered(self) -> bytes:
        """The answer to the current request has come to its end: what goes to the host now. Raises `Refused`."""
        self.current = None
        return self.feed(b"")

    def _step(self) -> bytes | None:
        if self.switched:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        if self._body is not None:
            return self._content(self._body)
        return self._head() if self.current is None else None

    def _head(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n", self._searched)
        if (end if end >= 0 else len(self._buffer)) > MAX_HEAD:
            raise Refused(431, "the head of its request is too long")
        if end < 0:
            self._searched = max(0, len(self._buffer) - 3)
            return None
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        self._searched = 0
        request = self._checked(head)
        framing = framing_of(length_of(request.fields))
        swapper = self._swapper()
        swapped = swapper.swap(request)
        self.current = request
        self.swapped.append(swapped)
        if not framing.done:
            self._body, self._watch = Content(framing), watch(swapper.placeholders, "the body")
        return dump_request(swapped.request, _passed_on(swapped.request, readable=self._readable))

    def _content(self, body: Content) -> bytes:
        content, taken = body.feed(bytes(self._buffer))
        del self._buffer[:taken]
        content = self._watch.feed(content)
        if body.done:
            content += self._watch.end()
            self._body = None
        if not body.chunked:
            return content
        return chunk(content) + LAST_CHUNK * body.done

    def _checked(self, head: bytes) -> Request:
        request = parse_request(head)
        if request.method == b"CONNECT" or not head.split(b" ", 2)[1].startswith((b"/", b"*")):
            raise Refused(400, "its request names a host twice")
        if request.minor == 0 and values(request.fields, b"transfer-encoding"):
            raise Refused(400, "its request is HTTP/1.0 and has a body in chunks")
        if self._hosts and (request.get(b"host") or b"").lower() not in self._hosts:
            raise Refused(421, "its Host is not the one that its connection is for")
        if values(request.fields, b"upgrade") and not _is_websocket(request):
            raise Refused(501, "it asks for another protocol than WebSocket")
        return request


def _passed_on(request: Request, *, readable: bool) -> Fields:
    dropped = HOP_BY_HOP | _UNREADABLE if readable else HOP_BY_HOP
    kept = [(key, value) for key, value in request.fields if key.lower() not in dropped]
    if readable:
        kept.append((b"Accept-Encoding", b"identity"))
    if request.upgrades:
        return [*kept, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return [*kept, (b"Connection", b"keep-alive" if request.keeps_alive else b"close")]


def _is_websocket(request: Request) -> bool:
    return (request.get(b"upgrade") or b"").lower() == b"websocket" and request.upgrades
