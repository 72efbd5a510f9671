"""One HTTP/1.1 connection. A Protocol, not streams: pieces of a body go to the handler without copies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from hutch_guest.http.messages import Body, Request, Response, Stream
from hutch_guest.http.parse import MAX_HEAD, BadRequest, Decoder, Head, body_decoder, parse_head
from hutch_guest.http.urls import split_target
from hutch_guest.log import log_exception

Handler = Callable[[Request], Awaitable[Response]]

_SMALL = 32 << 10
_LINGER = 3.0
"""Seconds for which the rest of a refused upload is read and thrown away, so that the client can read the answer."""

_REASONS = {
    100: "Continue", 101: "Switching Protocols",
    200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content", 304: "Not Modified",
    400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
    413: "Content Too Large", 416: "Range Not Satisfiable", 429: "Too Many Requests", 499: "Client Closed Request",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 507: "Insufficient Storage",
}  # fmt: skip


class Connection(asyncio.Protocol):
    """Parses requests one after the other, hands each to the handler, writes its answer."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._decoder: Decoder | None = None
        self._body: Body | None = None
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._closing = False
        self._gone = False

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=512 << 10)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if self._body is not None:
            self._body.fail()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._advance(data)
        except BadRequest as error:
            self._refuse(error)

    # reading

    def _advance(self, data: bytes) -> None:
        if self._decoder is not None and self._body is not None:
            data = self._decoder.feed(data, self._body.feed)
            if self._decoder.done:
                self._decoder = None
                self._body.feed_end()
        if not data:
            return
        self._buffer += data
        if self._task is None:
            self._next_request()
        elif len(self._buffer) > MAX_HEAD:
            self._transport.pause_reading()  # pipelined requests wait for their turn

    def _next_request(self) -> None:
        """Start the next request if its head is whole."""
        while self._buffer[:2] == b"\r\n":
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise BadRequest("request head too large", 431)
            return
        head = parse_head(bytes(self._buffer[:end]))
        decoder = body_decoder(head)
        rest = bytes(self._buffer[end + 4 :])
        self._buffer.clear()
        self._start(head, decoder)
        if rest:
            self._advance(rest)

    def _start(self, head: Head, decoder: Decoder) -> None:
        path, query = split_target(head.target)
        self._body = body = Body(self._transport.pause_reading, self._resume_reading)
        if decoder.done:
            body.feed_end()
        else:
            self._decoder = decoder
            if head.headers.get("expect", "").lower() == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = Request(head.method, path, query, head.headers, body)
        self._task = self._loop.create_task(self._serve(request, head))

    def _resume_reading(self) -> None:
        if not self._gone and not self._transport.is_closing():
            self._transport.resume_reading()

    def _refuse(self, error: BadRequest) -> None:
        if self._task is not None:  # in the middle of a body: the handler sees a cut connection
            self._transport.abort()
            return
        message = str(error).replace('"', "'")
        body = b'{"code":"invalid_request","message":"%s"}' % message.encode("ascii", "replace")
        self._write_head(Response(error.status, body, "application/json"), close=True)
        self._transport.write(body)
        self._close()

    # answering

    async def _serve(self, request: Request, head: Head) -> None:
        response = await self._handler(request)
        if response.takeover is not None:
            self._write_head(response, close=False)
            self._task = None  # nobody is to cancel us when the connection ends as something else
            return response.takeover(self._transport, bytes(self._buffer))
        close = not (head.keep_alive and request.body.complete)
        if isinstance(response.body, bytes):
            self._write_head(response, close, b"" if head.method == "HEAD" else response.body)
        else:
            close = not await self._write_stream(response, response.body, close, head.method == "HEAD") or close
        if self._drained is not None:
            await self._drained
        self._finish(close)

    def _finish(self, close: bool) -> None:
        self._task = self._body = None
        if close or self._gone:
            self._close()
            return
        self._resume_reading()
        try:
            self._next_request()
        except BadRequest as error:
            self._refuse(error)

    def _write_head(self, response: Response, close: bool, payload: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if isinstance(response.body, bytes):
            if response.status not in (101, 204):
                lines.append(f"Content-Length: {len(response.body)}")
        elif response.length is not None:
            lines.append(f"Content-Length: {response.length}")
        else:
            lines.append("Transfer-Encoding: chunked")
        if close:
            lines.append("Connection: close")
        lines.append("\r\n")
        self._transport.write("\r\n".join(lines).encode("latin-1", "replace") + payload)

    async def _write_stream(self, response: Response, stream: Stream, close: bool, head_only: bool) -> bool:
        """Write a generator's pieces; False when the connection was cut because it failed."""
        chunked = response.length is None
        self._write_head(response, close, b"".join(_framed(response.first, chunked)))
        try:
            if not head_only:
                async for piece in stream:
                    await self._write_piece(piece, chunked)
        except Exception as error:  # no clean end: the client must not take the part for the whole
            self._transport.abort()
            if not isinstance(error, ConnectionError):
                log_exception(error)
            return False
        finally:
            await stream.aclose()
        if chunked and not head_only:
            self._transport.write(b"0\r\n\r\n")
        return True

    async def _write_piece(self, piece: bytes, chunked: bool) -> None:
        if not piece:
            return
        if len(piece) < _SMALL:
            self._transport.write(b"".join(_framed(piece, chunked)))
        else:  # as it is: the transport would copy what the kernel does not take at once, and again after each send
            for part in _framed(piece, chunked):
                self._transport.write(part)
        if self._drained is not None:
            await self._drained
            if self._gone:
                raise ConnectionResetError

    def _close(self) -> None:
        """Close after the answer; while the client still sends, read on for a moment (else it sees a reset)."""
        self._closing = True
        self._buffer.clear()
        if self._gone or self._decoder is None:
            self._transport.close()
            return
        self._decoder = None
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume_reading()
        self._loop.call_later(_LINGER, self._transport.abort)


def _framed(piece: bytes, chunked: bool) -> tuple[bytes, ...]:
    """A piece of a body as it goes onto the wire."""
    return (b"%x\r\n" % len(piece), piece, b"\r\n") if chunked and piece else (piece,)
