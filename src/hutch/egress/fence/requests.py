"""HTTP/1.1 without TLS: every request on a connection is judged by its Host."""

from __future__ import annotations

import re
from collections.abc import Callable

from hutch.egress.fence.refusal import Refused
from hutch.http1.framing import Framing, framing_of
from hutch.http1.heads import BadHead, Request, length_of, parse_answer, parse_request, values
from hutch.model.rules import clean_name

MAX_HEAD = 32 << 10

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*\r?")


class HttpGuard:
    """Lets pass what has been judged; `judge` is given each request's host, and raises `Refused`."""

    def __init__(self, judge: Callable[[str], None], port: int) -> None:
        self._judge = judge
        self._port = port
        self._buffer = bytearray()
        self._searched = 0
        self._body: Framing | None = None
        self._requests = 0
        self._answer: bytearray | None = None
        """While another protocol was asked for: the beginning of what the server says."""
        self.settled = False

    @property
    def decided(self) -> bool:
        """Whether a request has been let through."""
        return self._requests > 0

    @property
    def waiting(self) -> bool:
        """Whether nothing passes until the server has answered."""
        return self._answer is not None

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on. Raises `Refused`."""
        if self._body is not None and not self._buffer:
            taken = self._take(data)
            if taken == len(data):
                return data
            self._buffer += data[taken:]
            return data[:taken] + self._drain()
        self._buffer += data
        return self._drain()

    def answered(self, data: bytes) -> None:
        """What the server says: whether it speaks the other protocol now."""
        if self._answer is None:
            return
        self._answer += data
        while self._answer is not None and (end := self._answer.find(b"\r\n\r\n")) >= 0:
            try:
                status = parse_answer(bytes(self._answer[:end])).status
            except BadHead as error:
                raise Refused(f"the server's answer is not understood: {error}") from error
            del self._answer[: end + 4]
            if status == 101:
                self.settled = True
            if status == 101 or status >= 200:
                self._answer = None
        if self._answer is not None and len(self._answer) > MAX_HEAD:
            raise Refused("the head of the server's answer is too long")

    def _drain(self) -> bytes:
        passed = bytearray()
        while self._buffer and not self.waiting and not self.settled:
            if self._body is None:
                head = self._head()
                if head is None:
                    break
                passed += head
            else:
                data = bytes(self._buffer)
                taken = self._take(data)
                passed += data[:taken]
                del self._buffer[:taken]
        if self.settled:
            passed += self._buffer
            self._buffer.clear()
        return bytes(passed)

    def _take(self, data: bytes) -> int:
        assert self._body is not None
        try:
            taken = self._body.take(data)
        except BadHead as error:
            raise Refused(f"its request is not understood: {error}") from error
        if self._body.done:
            self._body = None
        return taken

    def _head(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n", self._searched)
        if (end if end >= 0 else len(self._buffer)) > MAX_HEAD:
            raise Refused("the head of its request is too long")
        if end < 0:
            self._searched = max(0, len(self._buffer) - 3)
            return None
        head = bytes(self._buffer[: end + 4])
        try:
            body = framing_of(length_of(self._judged(head[:-4]).fields))
        except BadHead as error:
            raise Refused(f"its request is not understood: {error}") from error
        del self._buffer[: end + 4]
        self._searched = 0
        self._requests += 1
        self._body = None if body.done else body
        return head

    def _judged(self, head: bytes) -> Request:
        target = head.split(b" ", 2)[1:2]
        if head.startswith(b"CONNECT "):
            raise Refused("it asks a server to connect it to another (CONNECT)")
        request = parse_request(head)
        if not target[0].startswith(b"/") and target[0] != b"*":
            raise Refused("its request names a host twice")
        if request.minor == 0 and values(request.fields, b"transfer-encoding"):
            raise Refused("its request is HTTP/1.0 and has a body in chunks, which some read as other requests")
        said = request.get(b"host")
        if said is None:
            raise Refused("its request has not just one Host")
        host, colon, port = said.decode("latin-1").partition(":")
        if colon and port != str(self._port):
            raise Refused(f"its Host says another port: {said[:100]!r}")
        name = clean_name(host)
        if name is None:
            raise Refused(f"its Host {host[:100]!r} is no host name")
        self._judge(name)
        if values(request.fields, b"upgrade"):
            self._upgrade(request)
        return request

    def _upgrade(self, request: Request) -> None:
        if (request.get(b"upgrade") or b"").lower() != b"websocket" or not request.upgrades:
            raise Refused("it asks for another protocol than WebSocket")
        if self._requests or length_of(request.fields):
            raise Refused("it asks for WebSocket on a connection that is in use")
        self._answer = bytearray()


def looks_like_http(data: bytes) -> bool | None:
    """Whether a server could read a connection that begins so as HTTP; None: too early to say."""
    line, end, _ = data.lstrip(b"\r\n").partition(b"\n")  # empty lines before it are passed over
    if end or len(data) > MAX_HEAD:
        return b"HTTP/" in line.upper() or not end
    method, blank, _ = line.replace(b"\t", b" ").partition(b" ")
    if not _TOKEN.fullmatch(method) or (blank and b"\0" in line and not method.isalpha()):
        return False
    return None
