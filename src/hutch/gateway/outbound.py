"""The connection to a port of a sandbox (or, from the port with TLS, to the API). What comes out of it is a stranger's:
read strictly, held in bounds."""

from __future__ import annotations

from typing import Protocol

from hutch.gateway.exchange import Exchange, answer_head
from hutch.gateway.flow import Flow
from hutch.gateway.routing import Api, Place
from hutch.http1.framing import Endless, Framing, Sized, framing_of
from hutch.http1.heads import MAX_HEAD, BadHead, length_of, parse_answer

_WRITING = "the other side writes"
_MAX_INTERIM = 16


class Client(Protocol):
    """The client's side."""

    def write(self, data: bytes | bytearray) -> None: ...
    def hold(self, reason: str) -> None: ...
    def release(self, reason: str) -> None: ...

    def closes_after(self) -> bool:
        """Whether this answer is the client connection's last."""

    def answered(self, ends_with_connection: bool) -> None:
        """The answer is whole."""

    def switched(self) -> None:
        """Both sides speak another protocol from here on."""

    def lost(self) -> None:
        """It ended before the answer was whole. (Or its end is the answer's: see `Outbound.ends_by_closing`.)"""

    def carried(self) -> None:
        """Bytes have come out of the sandbox."""

    def ended(self) -> bool:
        """In another protocol: the sandbox sends no more. Whether the client may still."""

    def gone(self, upstream: Outbound) -> None:
        """It ended while nothing was asked of it."""


class Outbound(Flow):
    """Serves one exchange after the other."""

    def __init__(self, client: Client, place: Place | Api) -> None:
        super().__init__()
        self.place = place
        self.guest_token = ""
        self.reused = False
        self.reusable = True
        self._client = client
        self._exchange: Exchange | None = None
        self._head = bytearray()
        self._body: Framing | None = None
        self._interim = 0
        self._raw = False

    @property
    def ends_by_closing(self) -> bool:
        """Whether the answer that is coming has no end but that of the connection."""
        return isinstance(self._body, Endless)

    def begin(self, exchange: Exchange) -> None:
        """Send the head of a request."""
        self._exchange, self._body, self._interim = exchange, None, 0
        self.write(exchange.head(self.guest_token))

    def forget_client(self) -> None:
        """The client is gone: so are we."""
        self._exchange, self._raw = None, False
        self.reusable = False
        self.reset()

    def data_received(self, data: bytes) -> None:
        self._client.carried()
        if self._raw:
            self._client.write(data)
        elif self._exchange is None:
            self._spoil()  # an answer that nobody has asked for
        elif self._body is not None:
            self._pass(data)
        else:
            self._head += data
            self._read_heads(self._exchange)

    def eof_received(self) -> bool:
        self.finished = True
        return self._raw and self._client.ended() and self.half_closes

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._transport = None
        if self._raw or self._exchange is not None:
            self._client.lost()
        else:
            self._client.gone(self)

    def pause_writing(self) -> None:
        self._client.hold(_WRITING)

    def resume_writing(self) -> None:
        self._client.release(_WRITING)

    def _read_heads(self, exchange: Exchange) -> None:
        try:
            while self._body is None and not self._raw:
                end = self._head.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._head) > MAX_HEAD:
                        raise BadHead("the answer's head is too long")
                    return
                head = bytes(self._head[:end])
                del self._head[: end + 4]
                self._take_head(exchange, head)
        except BadHead:
            return self._spoil()
        rest, self._head = bytes(self._head), bytearray()
        if self._raw:
            self._client.write(rest)
        else:
            self._pass(rest)

    def _take_head(self, exchange: Exchange, head: bytes) -> None:
        answer = parse_answer(head)
        if answer.status == 101:
            if not exchange.upgrades:
                raise BadHead("a protocol that nobody has asked for")
            self._raw, self._exchange = True, None
            self._client.write(answer_head(answer, close=False))
            return self._client.switched()
        if answer.status < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise BadHead("too many interim answers")
            if exchange.request.minor == 1:
                self._client.write(answer_head(answer, close=False))
            return
        length = length_of(answer.fields)
        if answer.minor == 0 and length == -1:
            raise BadHead("HTTP/1.0 knows no chunks")
        empty = exchange.request.method == b"HEAD" or answer.status in (204, 304)
        self._body = Sized(0) if empty else framing_of(length, without=None)
        self.reusable = answer.keeps_alive and not self.ends_by_closing and not exchange.last
        exchange.begun = True
        self._client.write(answer_head(answer, self.ends_by_closing or self._client.closes_after()))

    def _pass(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        try:
            taken = body.take(data)
        except BadHead:
            return self._spoil()
        self._client.write(data if taken == len(data) else data[:taken])
        if body.done:
            self.reusable = self.reusable and taken == len(data)
            self._exchange = self._body = None
            self._client.answered(ends_with_connection=False)

    def _spoil(self) -> None:
        """It does not keep to the protocol."""
        self.reusable = False
        self.reset()  # `connection_lost` tells the client
