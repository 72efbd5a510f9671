"""`/hutch/processes`: start, list, follow, feed, signal, remove."""

from __future__ import annotations

import signal

from hutch_guest.errors import Conflict, InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, dump_json, empty_response, json_response
from hutch_guest.processes import frames
from hutch_guest.processes import request as requests
from hutch_guest.processes.follow import follow

FRAMES = "application/x-hutch-frames"


async def start(guest: Guest, request: Request) -> Response:
    """201 with the state; 200 when the id is known already. With `follow=1` the state comes as the first frame of the
    output, which goes on to its end: one call instead of two."""
    wanted = requests.parse(await request.json())
    known = wanted.id in guest.manager.processes
    process = await guest.start(wanted)
    status = 200 if known else 201
    if not _flag(request, "follow"):
        return json_response(process.state(), status)
    return Response(status, follow(process), FRAMES, first=frames.started(dump_json(process.state())))


async def list_all(guest: Guest, request: Request) -> Response:
    """All processes, running and ended."""
    return json_response({"processes": [process.state() for process in guest.manager.processes.values()]})


async def get(guest: Guest, request: Request) -> Response:
    """One process."""
    return json_response(guest.manager.get(request.params[0]).state())


async def output(guest: Guest, request: Request) -> Response:
    """Its output as frames."""
    process = guest.manager.get(request.params[0])
    position = _offset(request.query.get("from", "0"))
    if position > process.spool.end:
        raise InvalidRequest(f"offset {position} is after the output's end, {process.spool.end}", field="from")
    return Response(body=follow(process, position, _flag(request, "follow")), content_type=FRAMES)


async def ack(guest: Guest, request: Request) -> Response:
    """Everything before the offset has been stored elsewhere."""
    process = guest.manager.get(request.params[0])
    offset = (await request.json()).get("offset")
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset <= process.spool.end:
        raise InvalidRequest(f"offset is not a number from 0 to {process.spool.end}", field="offset")
    process.spool.ack(offset)
    return empty_response()


async def stdin(guest: Guest, request: Request) -> Response:
    """Write the body to its standard input, as fast as it reads; then close it when asked to."""
    process = guest.manager.get(request.params[0])
    pipe = process.stdin
    if pipe is None or not pipe.open:
        raise Conflict("standard input is not open" if process.running else "the process has ended")
    while piece := await request.body.read():
        await pipe.write(piece)
    if _flag(request, "close"):
        if process.terminal is not None:
            await pipe.write(b"\x04")  # end-of-file, as a person types it
        else:
            await pipe.finish()
    return empty_response()


async def send_signal(guest: Guest, request: Request) -> Response:
    """Signal it; with `tree` (the default) everything it has started as well."""
    process = guest.manager.get(request.params[0])
    raw = await request.json()
    number = parse_signal(raw.get("signal", "SIGTERM"))
    whole_tree = bool(raw.get("tree", True))
    if whole_tree and number == signal.SIGKILL:
        await process.kill()
    else:
        process.send_signal(number, whole_tree)
    return empty_response()


async def resize(guest: Guest, request: Request) -> Response:
    """Change its terminal's size."""
    process = guest.manager.get(request.params[0])
    process.resize(*requests.pty_size(await request.json()))
    return empty_response()


async def delete(guest: Guest, request: Request) -> Response:
    """Kill it with everything it has started, and forget it."""
    await guest.manager.forget(request.params[0])
    return empty_response()


def parse_signal(value: object) -> signal.Signals:
    """A signal by name (with or without SIG) or number."""
    try:
        if isinstance(value, int):
            return signal.Signals(value)
        name = str(value).upper()
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise InvalidRequest(f"unknown signal '{str(value)[:32]}'", field="signal") from None


def _flag(request: Request, name: str) -> bool:
    return request.query.get(name, "0").lower() not in ("0", "false", "")


def _offset(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRequest("from is not an offset", field="from")
    return int(text)
