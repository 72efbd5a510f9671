"""A client's connection: one request after the other, each to any port of any sandbox."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog

from hutch.control.ports import Door
from hutch.errors import HutchError
from hutch.gateway import refusals
from hutch.gateway.exchange import Exchange, exchange_of
from hutch.gateway.flow import Flow
from hutch.gateway.message import AHEAD, Ahead, is_input, message_of
from hutch.gateway.outbound import Outbound
from hutch.gateway.refusals import Refusal
from hutch.gateway.routing import Api, Names, Place, find_place
from hutch.http1.heads import MAX_HEAD, BadHead, Request, parse_request

if TYPE_CHECKING:
    from hutch.gateway.server import Gateway

log = structlog.get_logger("hutch.gateway")

IDLE_SECONDS = 620.0
"""Longer than clients keep a connection (E2B's 300 s): the one that closes it must be the one that would use it."""
HEAD_SECONDS = 30.0
_REST_SECONDS = 20.0
"""After which the sandbox's side of a connection that nobody uses is closed: the next request opens another."""
_LINGER_SECONDS = 3.0
"""For which the rest of a refused upload is read and thrown away, so that the client can read the answer."""
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
_FULL, _WRITING, _UNREAD = "too much is waiting", "the other side writes", "answers are not read"


class Inbound(Flow):
    """Reads requests, finds their ways, passes bytes."""

    def __init__(self, gateway: Gateway, names: Names | None = None) -> None:
        super().__init__()
        self._gateway = gateway
        self._names = names
        """Given on the port with TLS: the host name alone says where a request goes."""
        self._buffer = bytearray()
        self._exchange: Exchange | None = None
        self._upstream: Outbound | None = None
        self._work: asyncio.Task[None] | None = None
        self._ahead: Ahead | None = None
        """Reads what the current request asks for, before it is passed on."""
        self._connected = False
        """The current request's head has gone to the sandbox."""
        self._raw = False
        self._lingering = False
        self._slow = False
        """The client does not read as fast as we write."""
        self._door: Door | None = None
        """Of the last request's sandbox."""
        self._published: Place | None = None
        """Where the last request was let in without a token, for that one port is public."""
        self._counts = False
        """What it sends and gets is use of the sandbox."""
        self.deadline = 0.0
        """When it is closed if nothing happens until then (monotonic); 0 while somebody works for it."""
        self.rest_at = 0.0
        """When its sandbox's side is closed, in the same way."""

    # -- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.deadline = time.monotonic() + IDLE_SECONDS
        if not self._gateway.joined(self):
            self.write(refusals.too_many().render(close=True))
            self._linger()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._gateway.left(self)
        if self._work is not None:
            self._work.cancel()
        self._end_exchange()
        self._drop_upstream()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if self._lingering:
            return
        self.carried()
        if self._raw and self._upstream is not None:
            self._upstream.write(data)
        elif exchange is not None and self._connected and not self._buffer and not exchange.upload.done:
            self._pass(exchange, data)
        else:
            self._buffer += data
            self._advance()

    def eof_received(self) -> bool:
        if self._raw and self._upstream is not None and self.half_closes:
            self.finished = True
            self.deadline = time.monotonic() + IDLE_SECONDS
            if self._upstream.finished:
                self._upstream.close()  # what it was sent still arrives; then `lost` closes us
            else:
                self._upstream.finish_writing()
            return True
        return False

    def pause_writing(self) -> None:
        self._slow = True
        if self._upstream is not None:
            self._upstream.hold(_WRITING)

    def resume_writing(self) -> None:
        self._slow = False
        if self._upstream is not None:
            self._upstream.release(_WRITING)
        if self.holds(_UNREAD):
            self.release(_UNREAD)
            self._next()

    @property
    def published(self) -> Place | None:
        """Where something is under way that has shown no token, and may be as long as that port is public."""
        return self._published if self._exchange is not None or self._raw else None

    # -- the request

    def _advance(self) -> None:
        """Go on with what has been read."""
        exchange = self._exchange
        if exchange is None:
            self._read_head()
        elif self._connected and not exchange.upload.done:
            data, self._buffer = bytes(self._buffer), bytearray()
            self._pass(exchange, data)
        elif self._ahead is not None:
            self._ahead.more()
        if len(self._buffer) > (AHEAD if self._ahead is None else self._ahead.most):
            self.hold(_FULL)

    def _read_head(self) -> None:
        while self._buffer[:2] == b"\r\n":
            del self._buffer[:2]
        if not self._buffer:
            return
        end = self._buffer.find(b"\r\n\r\n")
        bare = end < 0 and self._buffer.count(b"\n") > self._buffer.count(b"\r\n")
        if end < 0 and not bare and len(self._buffer) <= MAX_HEAD:
            self.deadline = min(self.deadline, time.monotonic() + HEAD_SECONDS)
            return
        try:
            if bare:
                raise BadHead("a line does not end in CR LF")
            if not 0 <= end <= MAX_HEAD:
                raise BadHead("the request's head is too long")
            exchange = exchange_of(parse_request(bytes(self._buffer[:end])))
        except BadHead as error:
            self.write(Refusal(400, str(error)).render(close=True))
            return self._linger()
        del self._buffer[: end + 4]
        self._exchange, self._connected = exchange, False
        self.deadline = self.rest_at = 0.0
        self._start(exchange)

    def _start(self, exchange: Exchange) -> None:
        self._work = asyncio.create_task(self._open(exchange))

    async def _open(self, exchange: Exchange) -> None:
        """Find the way, and send the request on it."""
        try:
            upstream = await self._find(exchange)
        except Refusal as refusal:
            return self._refuse(refusal)
        except HutchError as error:
            return self._refuse(refusals.unavailable(error.detail))
        except Exception:
            log.exception("no way was found")
            return self._refuse(Refusal(500, {"code": 500, "message": "something went wrong inside Hutch"}))
        if upstream is None:
            return self._greet_browser()
        self._connected = True
        upstream.begin(exchange)
        if not self._buffer:
            return
        self._advance()
        if len(self._buffer) <= AHEAD:
            self.release(_FULL)

    async def _find(self, exchange: Exchange) -> Outbound | None:
        """An open connection to the request's port; None for a browser that only asks. Raises `Refusal`."""
        request = exchange.request
        target = self._names.find(request) if self._names is not None else find_place(request)
        if isinstance(target, Api):
            return await self._find_api(exchange, target)
        if _is_preflight(request) and target is None:
            return None  # it cannot carry the headers that will say where the request itself goes
        place, door, entry = await self._gateway.route(request, target)
        if _is_preflight(request) and not entry.known:
            return None
        exchange.place, exchange.door, exchange.request = place, door, entry.request
        self._door, self._counts = door, entry.known
        self._published = place if entry.published else None
        if entry.known and exchange.keeps_connection:
            await self._gateway.record(door, entry.request, await self._message(exchange))
        if entry.known and is_input(exchange):
            exchange.source = await self._gateway.input_begins(door)
        if entry.known and exchange.to_guest:
            exchange.held.enter_context(self._gateway.ports.using(door))
        known = self._upstream
        if known is not None and known.place == place and known.open and known.reusable:
            known.reused = True
            if exchange.keeps_connection or exchange.repeatable:
                self.carried()
                return known
        self._drop_upstream()
        upstream = Outbound(self, place)
        upstream.guest_token = await self._gateway.connect(door, place, upstream, entry.known)
        return self._take(upstream)

    async def _message(self, exchange: Exchange) -> dict[str, Any] | None:
        """What a call to the guest asks for, where its body says so. Raises `Refusal`."""
        reader = message_of(exchange)
        if reader is None:
            return None
        if exchange.awaits_leave:
            self.write(_GO_ON)
        self._ahead = Ahead(reader, self._gateway.room, exchange.held)
        try:
            return await self._ahead.wait(self._buffer)
        except BadHead as error:
            raise Refusal(400, str(error)) from None
        finally:
            self._ahead = None

    async def _find_api(self, exchange: Exchange, api: Api) -> Outbound:
        exchange.place, exchange.client = api, self.peer
        self._door, self._counts, self._published = None, False, None
        known = self._upstream
        if known is not None and known.place == api and known.open and known.reusable:
            return known
        self._drop_upstream()
        upstream = Outbound(self, api)
        await self._gateway.connect_api(upstream)
        return self._take(upstream)

    def _take(self, upstream: Outbound) -> Outbound:
        """It is this connection's from now on."""
        self._upstream = upstream
        if self._slow:
            upstream.hold(_WRITING)
        if not self.open:  # the client has gone meanwhile
            self._drop_upstream()
        return upstream

    def _pass(self, exchange: Exchange, data: bytes) -> None:
        """More of the body."""
        try:
            taken = exchange.upload.take(data)
        except BadHead:
            return self.reset()
        if self._upstream is not None:
            self._upstream.write(data if taken == len(data) else data[:taken])
        if exchange.source is not None:
            self._gateway.stdin_log.add(exchange.source, taken)
        self._buffer += data[taken:]

    # -- the answer

    def closes_after(self) -> bool:
        exchange = self._exchange
        return exchange is None or not exchange.request.keeps_alive or not exchange.upload.done

    def answered(self, ends_with_connection: bool) -> None:
        close = ends_with_connection or self.closes_after()
        whole = self._exchange is None or self._exchange.upload.done
        self._end_exchange()
        if self._upstream is not None and not self._upstream.reusable:
            self._drop_upstream()
        if close:
            return self.close() if whole else self._linger()
        self._next()

    def switched(self) -> None:
        self._end_exchange()
        self._raw = True
        self.release(_FULL)
        if self._upstream is not None:
            self._upstream.write(bytes(self._buffer))
        self._buffer.clear()

    def carried(self) -> None:
        if self._counts and self._upstream is not None and isinstance(self._upstream.place, Place):
            self._gateway.touch(self._upstream.place.sandbox_id)
        if self._raw and self.deadline:  # one side has finished, and the other goes on
            self.deadline = time.monotonic() + IDLE_SECONDS

    def ended(self) -> bool:
        self.deadline = time.monotonic() + IDLE_SECONDS
        self.finish_writing()
        return self.half_closes and not self.finished

    def gone(self, upstream: Outbound) -> None:
        if self._upstream is upstream:
            self._upstream = None
            self.release(_WRITING)

    def lost(self) -> None:
        """The sandbox's side has ended in the middle: of another protocol, or of an answer."""
        exchange, upstream = self._exchange, self._upstream
        self._upstream = None
        self.release(_WRITING)
        if self._raw and upstream is not None and upstream.finished:
            return self.close()
        if self._raw and self.finished and self._door is not None:
            self._work = asyncio.create_task(self._close_if_running(self._door))
            return
        if exchange is None or exchange.door is None or upstream is None:
            return self.reset()
        if exchange.begun and not (upstream.ends_by_closing and upstream.finished):
            return self.reset()
        self._work = asyncio.create_task(self._after_loss(exchange, upstream))

    async def _close_if_running(self, door: Door) -> None:
        """Both have finished, or the sandbox was killed."""
        try:
            running = await self._gateway.ports.running(door)
        except Exception:
            log.exception("whether the sandbox runs cannot be said")
            running = False
        return self.close() if running else self.reset()

    async def _after_loss(self, exchange: Exchange, upstream: Outbound) -> None:
        """The end of an answer, if the sandbox lives; nothing that looks like one, if it does not."""
        assert exchange.door is not None and isinstance(exchange.place, Place)
        try:
            running = await self._gateway.ports.running(exchange.door)
        except Exception:
            log.exception("whether the sandbox runs cannot be said")
            return self.reset()
        if upstream.ends_by_closing:
            return self.answered(ends_with_connection=True) if running else self.reset()
        if running and upstream.reused and exchange.repeatable:
            self._connected = False
            return self._start(exchange)
        if running:
            return self._refuse(refusals.cut(exchange.place.sandbox_id, exchange.place.port))
        self._refuse(refusals.not_found(exchange.place.sandbox_id))

    # -- our own answers

    def _greet_browser(self) -> None:
        exchange = self._exchange
        close = exchange is None or not exchange.request.keeps_alive or not exchange.upload.done
        self.write(refusals.preflight(close))
        self._after_own_answer(close)

    def _refuse(self, refusal: Refusal) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if not exchange.upload.done:
            try:
                taken = exchange.upload.take(bytes(self._buffer))
            except BadHead:
                return self.reset()
            del self._buffer[:taken]
        close = self.closes_after()
        self.write(refusal.render(close, exchange.request.method == b"HEAD"))
        self._after_own_answer(close)

    def _after_own_answer(self, close: bool) -> None:
        whole = self._exchange is None or self._exchange.upload.done
        self._end_exchange()
        if not close:
            self._next()
        elif whole:
            self.close()
        else:
            self._linger()

    # -- ends

    def close(self) -> None:
        self.deadline = time.monotonic() + IDLE_SECONDS  # for a client that does not read what is left
        super().close()

    def rest(self) -> None:
        """Nobody has used it for a while."""
        self.rest_at = 0.0
        self._drop_upstream()

    def _next(self) -> None:
        self.deadline = time.monotonic() + IDLE_SECONDS
        self.rest_at = time.monotonic() + _REST_SECONDS
        if self._slow:  # each further request would be another answer that waits
            return self.hold(_UNREAD)
        if len(self._buffer) <= AHEAD:
            self.release(_FULL)
        if self._buffer:
            self._advance()

    def _end_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._connected = False
        if exchange is not None:
            exchange.held.close()

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.forget_client()
            self.release(_WRITING)

    def _linger(self) -> None:
        """Say that there is no more, and wait a moment for the client to understand."""
        self._lingering = True
        self._buffer.clear()
        self._drop_upstream()
        self.finish_writing()
        self.release(_FULL)
        self.deadline = time.monotonic() + _LINGER_SECONDS


def _is_preflight(request: Request) -> bool:
    return request.method == b"OPTIONS" and request.get(b"access-control-request-method") is not None
