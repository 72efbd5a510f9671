"""`process.Process`: E2B's calls on top of the same processes and spools as ours."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from hutch_guest.envd.connect import (
    RpcError,
    caller,
    end_envelope,
    envelope,
    field,
    raw_envelope,
    read_envelopes,
    read_message,
    section,
    stream_response,
    text,
)
from hutch_guest.errors import Conflict, InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, json_response
from hutch_guest.processes import environment, frames
from hutch_guest.processes.follow import follow
from hutch_guest.processes.process import Process
from hutch_guest.processes.request import StartRequest, pty_size

_SPOOL = 16 << 20
_KEPT = 30.0
"""Seconds for which the end of a process can still be read by Connect."""
_KEEPALIVE = 90.0
_STREAMS = {frames.STDOUT: b"stdout", frames.STDERR: b"stderr", frames.PTY: b"pty"}
_SIGNALS = {
    "SIGNAL_SIGKILL": signal.SIGKILL,
    9: signal.SIGKILL,
    "SIGNAL_SIGTERM": signal.SIGTERM,
    15: signal.SIGTERM,
}


async def call(guest: Guest, request: Request) -> Response:
    """Any call of the service."""
    method = _METHODS.get(request.params[0])
    if method is None:
        raise RpcError("unimplemented", f"no such method: {request.params[0][:64]}")
    return await method(guest, request)


def find(guest: Guest, message: dict[str, Any], ended_too: bool = False) -> Process:
    """The process that a call means, by pid or tag; ended ones only for a while and where it makes sense."""
    selector = section(message, "process")
    pid, tag = field(selector, "pid"), field(selector, "tag")
    for process in reversed(guest.manager.processes.values()):
        same = process.pid == pid if pid is not None else tag is not None and process.tag == tag
        if same and (process.running or (ended_too and time.time() - (process.ended_at or 0) < _KEPT)):
            return process
    what = f"pid {pid}" if pid is not None else f"tag {tag}"
    raise RpcError("not_found", f"process with {what} not found")


async def _list(guest: Guest, request: Request) -> Response:
    running = [process for process in guest.manager.processes.values() if process.running]
    return json_response({"processes": [_info(process) for process in running]})


def _info(process: Process) -> dict[str, Any]:
    info: dict[str, Any] = {"config": process.config, "pid": process.pid}
    if process.tag is not None:
        info["tag"] = process.tag
    return info


def parse_start(message: dict[str, Any]) -> StartRequest:
    """What `Start` asks for."""
    config = section(message, "process")
    program, arguments = text(config, "cmd"), field(config, "args") or []
    if not program or not isinstance(arguments, list) or not all(isinstance(one, str) for one in arguments):
        raise InvalidRequest("process has no cmd, or args that are not texts")
    if any("\0" in one for one in [program, *arguments]):
        raise InvalidRequest("cmd or args have a NUL")
    start = StartRequest([program, *arguments])
    start.env = environment.check(field(config, "envs"))
    start.cwd = text(config, "cwd") or None
    start.tag = text(message, "tag") or None
    start.linger = None
    start.max_spool = _SPOOL
    start.stdin = field(message, "stdin") is not False  # older clients do not send it, and mean an open one
    if pty := section(message, "pty"):
        start.pty = pty_size(section(pty, "size"))
    return start


async def _start(guest: Guest, request: Request) -> Response:
    account = caller(guest, request)
    wanted = parse_start(await read_message(request))
    process = await guest.manager.start(wanted, account, guest.layers(), guest.default_workdir)
    if seconds := _number(request, "connect-timeout-ms") / 1000:
        process.set_timeout(seconds, whole_tree=False)  # also when the caller has given up and gone by then
    return stream_response(_events(process, 0, request, starter=True))


async def _connect(guest: Guest, request: Request) -> Response:
    process = find(guest, await read_message(request), ended_too=True)
    # The end is the last frame: somebody who comes after it still gets it, and nothing else.
    return stream_response(_events(process, process.last_frame, request, starter=False))


async def _events(process: Process, position: int, request: Request, starter: bool) -> AsyncGenerator[bytes, None]:
    """The process's events as envelopes, until the caller's deadline. The starter's deadline is the process's too."""
    loop = asyncio.get_running_loop()
    milliseconds = _number(request, "connect-timeout-ms")
    deadline = loop.time() + milliseconds / 1000 if milliseconds else None
    reader = frames.FrameReader()
    stream = follow(process, position, keepalive=_number(request, "keepalive-ping-interval") or _KEEPALIVE)
    try:
        yield envelope({"event": {"start": {"pid": process.pid}}})
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    block = await anext(stream, b"")
            except TimeoutError:
                raise RpcError("deadline_exceeded", "the command timed out") from None
            if not block:
                return
            if starter and process.timed_out:  # its end is then no end of its own
                raise RpcError("deadline_exceeded", "the command timed out")
            if events := b"".join([_event(kind, payload) for kind, _, payload in reader.feed(block)]):
                yield events
    finally:
        await stream.aclose()


def _event(kind: int, payload: bytes) -> bytes:
    name = _STREAMS.get(kind)
    if name is not None:
        return raw_envelope(b'{"event":{"data":{"%s":"%s"}}}' % (name, base64.b64encode(payload)))
    if kind == frames.KEEPALIVE:
        return envelope({"event": {"keepalive": {}}})
    return envelope({"event": {"end": end_event(json.loads(payload))}}) if kind == frames.EXIT else b""


def end_event(state: dict[str, Any]) -> dict[str, Any]:
    """The end of a process, in the words of Go's `os/exec`."""
    if state["signal"] is not None:
        number = state["exit_code"] - 128
        status = f"signal: {(signal.strsignal(number) or str(number)).lower()}"
        return {"exitCode": -1, "exited": False, "status": status, "error": status}
    status = f"exit status {state['exit_code']}"
    end = {"exitCode": state["exit_code"], "exited": True, "status": status}
    return end if state["exit_code"] == 0 else end | {"error": status}


async def _write(process: Process, message: dict[str, Any]) -> None:
    """Write the `input` of a message to the process."""
    for name, value in section(message, "input").items():
        if name not in ("stdin", "pty"):
            continue
        if (name == "pty") != (process.terminal is not None):
            raise RpcError("internal", "the process has no terminal" if name == "pty" else "the process has a terminal")
        if process.stdin is None or not process.stdin.open:
            raise RpcError("internal", "stdin is not open")
        try:
            await process.stdin.write(base64.b64decode(value, validate=True))
        except (binascii.Error, TypeError, ValueError):
            raise InvalidRequest("the input is not base64") from None
        except Conflict as error:
            raise RpcError("internal", error.message) from error


async def _send_input(guest: Guest, request: Request) -> Response:
    message = await read_message(request)
    await _write(find(guest, message), message)
    return json_response({})


async def _stream_input(guest: Guest, request: Request) -> Response:
    process = None
    async for message in read_envelopes(request.body):
        if start := section(message, "start"):
            process = find(guest, start)
        elif data := section(message, "data"):
            if process is None:
                raise InvalidRequest("the stream does not begin with start")
            await _write(process, data)
    return Response(200, envelope({}) + end_envelope(), "application/connect+json")


async def _send_signal(guest: Guest, request: Request) -> Response:
    message = await read_message(request)
    process = find(guest, message)
    number = _SIGNALS.get(field(message, "signal"))
    if number is None:
        raise RpcError("unimplemented", "only SIGNAL_SIGTERM and SIGNAL_SIGKILL can be sent")
    process.send_signal(number, whole_tree=False)
    process.end_with_process()
    return json_response({})


async def _close_stdin(guest: Guest, request: Request) -> Response:
    process = find(guest, await read_message(request))
    if process.terminal is not None:
        raise RpcError("unknown", "a terminal's input cannot be closed")
    if process.stdin is not None:
        await process.stdin.finish()
    return json_response({})


async def _update(guest: Guest, request: Request) -> Response:
    message = await read_message(request)
    process = find(guest, message)
    if pty := section(message, "pty"):
        if process.terminal is None:
            raise RpcError("internal", "the process has no terminal")
        process.resize(*pty_size(section(pty, "size")))
    return json_response({})


def _number(request: Request, name: str) -> int:
    value = request.headers.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 12 else 0


_METHODS: dict[str, Callable[[Guest, Request], Awaitable[Response]]] = {
    "List": _list,
    "Start": _start,
    "Connect": _connect,
    "SendInput": _send_input,
    "StreamInput": _stream_input,
    "SendSignal": _send_signal,
    "CloseStdin": _close_stdin,
    "Update": _update,
}
