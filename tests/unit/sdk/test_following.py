"""Streams that break are taken up again: nothing is missing, nothing comes twice."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from aiohttp import WSMsgType, web

from hutch import AsyncHutch, Hutch
from hutch.errors import GuestUnavailable, RequestTimeout, SandboxNotFound, ServerUnavailable
from hutch.sdk import AsyncTask
from tests.unit.sdk.server import (
    EXEC_ID,
    SANDBOX_ID,
    TASK_ID,
    Server,
    begin,
    cut,
    event,
    frame,
    problem,
    sandbox,
    state,
    task,
)

EVENTS = f"/v1/tasks/{TASK_ID}/events"
EXEC = f"/v1/sandboxes/{SANDBOX_ID}/exec"
LAST = 12


def whole(first: int) -> bytes:
    """The stream from an offset, with what stands between events."""
    parts = [b"retry: 1000\n\n"]
    for offset in range(first, LAST + 1):
        parts += [b": keepalive\n\n", event(offset, text=f"{offset} ü\n")]
    return b"".join(parts) + event(LAST + 1, "result", state="succeeded")


def breaking(server: Server, after: int) -> None:
    """Events, with the connection cut after so many bytes each time."""

    @server.on("GET", f"/v1/tasks/{TASK_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(task())

    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept"] == "text/event-stream"
        response = await begin(request, "text/event-stream")
        data = whole(int(request.query["from"]))
        await response.write(data[:after])
        await asyncio.sleep(0.01)
        return cut(request) if after < len(data) else response


@pytest.mark.parametrize("after", [200, 333, 512, 700, 1000, 100_000])
async def test_events_come_once_each_wherever_the_line_breaks(server: Server, client: AsyncHutch, after: int) -> None:
    breaking(server, after)
    handle = await client.tasks.get(TASK_ID)
    assert [each.offset async for each in handle.events()] == list(range(1, LAST + 2))
    assert [each.offset async for each in handle.events(5)] == list(range(5, LAST + 2))


@pytest.mark.parametrize("after", [333, 100_000])
def test_events_for_the_blocking_client(server: Server, blocking: Hutch, after: int) -> None:
    breaking(server, after)
    assert [each.offset for each in blocking.tasks.get(TASK_ID).events()] == list(range(1, LAST + 2))


def of(client: AsyncHutch) -> AsyncTask:
    from hutch.model import Task

    return AsyncTask(client.transport, Task.model_validate(task()))


async def test_a_server_that_sends_events_again_is_not_believed(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "text/event-stream")
        await response.write(whole(1))
        return response

    assert [each.offset async for each in of(client).events(6)] == list(range(6, LAST + 2))


async def test_a_result_that_a_rollback_takes_back_ends_nothing(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        if int(request.query["from"]) > 3:
            return web.Response(status=204)
        response = await begin(request, "text/event-stream")
        back = event(2, "rolled_back", turn=1, snapshot="snp_1", safety="snp_2")
        await response.write(event(1, "result", state="failed") + back + event(3, "result", state="succeeded"))
        return cut(request)

    assert [each.offset async for each in of(client).events()] == [1, 2, 3]


async def test_a_restart_is_bridged(server: Server, client: AsyncHutch) -> None:
    calls = 0

    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 2:
            return problem(503, "server_stopping", retryable=True)
        response = await begin(request, "text/event-stream")
        if calls == 1:
            error = {"code": "server_stopping", "detail": "bye", "retryable": True}
            await response.write(event(1, text="a") + b"event: problem\ndata: " + json.dumps(error).encode() + b"\n\n")
        else:
            await response.write(whole(int(request.query["from"])))
        return response

    assert [each.offset async for each in of(client).events()] == list(range(1, LAST + 2))
    assert calls == 3


async def test_events_of_an_unknown_type_are_passed_over_and_not_asked_for_again(
    server: Server, client: AsyncHutch
) -> None:
    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "text/event-stream")
        if request.query["from"] == "1":
            await response.write(event(1, text="a") + event(2, "telepathy"))
            return cut(request)
        assert request.query["from"] == "3"
        await response.write(event(3, "result", state="succeeded"))
        return response

    assert [each.offset async for each in of(client).events()] == [1, 3]


async def test_a_task_that_is_gone_ends_the_following_at_once(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        return problem(404, "sandbox_not_found")

    with pytest.raises(SandboxNotFound):
        async for _ in of(client).events():
            pass
    assert server.count("GET", EVENTS) == 1


async def test_nothing_after_the_end(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    assert [each async for each in of(client).events(99)] == []


async def test_a_line_that_stays_broken_is_reported(server: Server, client: AsyncHutch, impatient: None) -> None:
    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        return cut(request)

    with pytest.raises(ServerUnavailable):
        async for _ in of(client).events():
            pass


async def test_waiting_ends_with_the_time_given(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", f"/v1/tasks/{TASK_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(task())

    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "text/event-stream")
        for _ in range(100):
            await response.write(b": keepalive\n\n")
            await asyncio.sleep(0.05)
        return response

    with pytest.raises(RequestTimeout):
        await of(client).wait(timeout=0.3)


async def test_wait_gives_the_result(server: Server, client: AsyncHutch) -> None:
    ended = False

    @server.on("GET", f"/v1/tasks/{TASK_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        if not ended:
            return web.json_response(task(last_offset=5))
        return web.json_response(task(state="failed", result={"state": "failed", "exit_code": 7}))

    @server.on("GET", EVENTS)
    async def events(request: web.Request) -> web.StreamResponse:
        nonlocal ended
        assert request.query["from"] == "5"
        ended = True
        response = await begin(request, "text/event-stream")
        await response.write(whole(5))
        return response

    handle = of(client)
    assert handle.result is None
    assert (await handle.wait()).exit_code == 7
    assert handle.state == "failed"


def output_frames() -> list[bytes]:
    """A command's output: text, bytes that are no text, a character cut in two, a keepalive, the end."""
    euro = "€".encode()
    import base64

    halves = [base64.b64encode(half).decode() for half in (euro[:1], euro[1:])]
    return [
        frame("stdout", 10, data="one\n"),
        frame("stderr", 20, data="err\n"),
        frame("keepalive", 20),
        frame("stdout", 30, data=halves[0], encoding="base64"),
        frame("stdout", 40, data=halves[1], encoding="base64"),
        frame("limit", 45, breach={"limit": "pids", "amount": 5, "used": 5, "action": "refused", "message": "full"}),
        frame("stdout", 50, data="end\u2028\n"),
        frame("exit", 60, exec=state(running=False, exit_code=3, output_end=60)),
    ]


def broken_exec(server: Server, keep: int, half: bool) -> None:
    """A command whose output breaks off after `keep` frames (and half of another), each time."""

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox())

    async def send(request: web.Request, frames: list[bytes]) -> web.StreamResponse:
        response = await begin(request, "application/x-ndjson")
        await response.write(b"".join(frames[:keep]) + (frames[keep][:15] if half and keep < len(frames) else b""))
        await asyncio.sleep(0.01)
        return response if keep >= len(frames) else cut(request)

    @server.on("POST", EXEC)
    async def start(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream"] is True
        return await send(request, [frame("start", 0, exec=state()), *output_frames()])

    @server.on("GET", f"{EXEC}/{EXEC_ID}/output")
    async def output(request: web.Request) -> web.StreamResponse:
        after = int(request.query["from"])
        return await send(request, [each for each in output_frames() if json.loads(each)["offset"] > after])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 3, 5, 100])
async def test_output_is_whole_wherever_the_line_breaks(
    server: Server, client: AsyncHutch, keep: int, half: bool
) -> None:
    broken_exec(server, keep, half)
    texts: list[str] = []
    result = await (await client.sandboxes.get(SANDBOX_ID)).run("x", on_stdout=texts.append)
    assert result.stdout == "one\n€end\u2028\n" == "".join(texts)
    assert result.stderr == "err\n" and result.exit_code == 3 and not result.truncated
    assert "\ufffd" not in "".join(texts)
    assert server.count("POST", EXEC) == 1


@pytest.mark.parametrize("keep", [2, 100])
def test_output_for_the_blocking_client(server: Server, blocking: Hutch, keep: int) -> None:
    broken_exec(server, keep, False)
    result = blocking.sandboxes.get(SANDBOX_ID).run(["x"])
    assert result.stdout == "one\n€end\u2028\n" and result.exit_code == 3


async def test_errors_in_the_stream(server: Server, client: AsyncHutch, impatient: None) -> None:
    broken_exec(server, 100, False)
    codes = iter(["guest_unavailable", "sandbox_not_found"])

    @server.on("POST", EXEC)
    async def start(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "application/x-ndjson")
        error = {"code": next(codes), "detail": "gone", "retryable": True}
        await response.write(frame("start", 0, exec=state()) + frame("error", 0, error=error))
        return response

    box = await client.sandboxes.get(SANDBOX_ID)
    assert (await box.run("x")).exit_code == 3, "an error that passes is bridged"

    @server.on("GET", f"{EXEC}/{EXEC_ID}/output")
    async def output(request: web.Request) -> web.StreamResponse:
        return problem(404, "sandbox_not_found")

    with pytest.raises(SandboxNotFound):
        await box.run("x")


async def test_what_there_is_without_following(server: Server, client: AsyncHutch) -> None:
    broken_exec(server, 100, False)

    @server.on("GET", f"{EXEC}/{EXEC_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(state())

    @server.on("GET", f"{EXEC}/{EXEC_ID}/output")
    async def output(request: web.Request) -> web.StreamResponse:
        assert request.query["follow"] == "false"
        response = await begin(request, "application/x-ndjson")
        await response.write(frame("stdout", 10, data="so far"))
        return response

    process = await (await client.sandboxes.get(SANDBOX_ID)).process(EXEC_ID)
    assert [each.text async for each in process.output(0, follow=False)] == ["so far"]


def terminal(server: Server, lives: list[list[object]]) -> list[str]:
    """A terminal that shows a list of messages in each life of its connection; the last life ends well."""
    queries: list[str] = []

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox())

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}/pty")
    async def pty(request: web.Request) -> web.StreamResponse:
        queries.append(request.query_string)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "start", "exec": state()})
        for message in lives[len(queries) - 1]:
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_json(message)
        if len(queries) < len(lives):
            await asyncio.sleep(0.05)
            return cut(request)
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                await socket.send_bytes(message.data)
                await socket.send_json({"type": "exit", "offset": 99, "exec": state(running=False, exit_code=4)})
        return socket

    return queries


async def test_a_terminal_that_loses_its_line_shows_nothing_twice(server: Server, client: AsyncHutch) -> None:
    queries = terminal(
        server,
        [
            [b"abc", {"type": "offset", "offset": 16}, b"de"],
            [b"de", b"fgh"],  # from offset 16: what came after it comes again
            [b"defghij", {"type": "offset", "offset": 50}],
        ],
    )
    box = await client.sandboxes.get(SANDBOX_ID)
    async with box.pty("top", cols=100, rows=30) as pty:
        shown = b""
        async for data in pty:
            shown += data
            if shown == b"abcdefghij":
                await pty.write("!")
    assert shown == b"abcdefghij!"
    assert pty.exit_code == 4
    assert "exec=" not in queries[0] and "cols=100" in queries[0]
    assert all(f"exec={EXEC_ID}" in query and "from=16" in query for query in queries[1:])


def test_a_terminal_for_the_blocking_client(server: Server, blocking: Hutch) -> None:
    terminal(server, [[b"abc"]])
    with blocking.sandboxes.get(SANDBOX_ID).pty() as pty:
        pty.write(b"x")
        assert b"".join(pty) == b"abcx"
    assert pty.exit_code == 4


def unwilling(server: Server, *messages: object) -> threading.Event:
    """A terminal that says this and never closes the connection; set when the client has."""
    terminal(server, [[]])
    left = threading.Event()

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}/pty")
    async def pty(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for message in messages:
            await socket.send_json(message)
        async for _ in socket:
            pass
        left.set()
        return socket

    return left


REFUSAL = {"type": "error", "error": {"code": "guest_unavailable", "detail": "no"}}


async def test_a_terminal_that_is_refused_leaves_no_connection(server: Server, client: AsyncHutch) -> None:
    left = unwilling(server, REFUSAL)
    box = await client.sandboxes.get(SANDBOX_ID)
    with pytest.raises(GuestUnavailable):
        async with box.pty():
            pass
    assert await asyncio.to_thread(left.wait, 5)


def test_a_refused_terminal_for_the_blocking_client(server: Server, blocking: Hutch) -> None:
    left = unwilling(server, REFUSAL)
    with pytest.raises(GuestUnavailable), blocking.sandboxes.get(SANDBOX_ID).pty():
        pass
    assert left.wait(5)


async def test_a_terminal_given_up_before_it_starts_leaves_no_connection(server: Server, client: AsyncHutch) -> None:
    left = unwilling(server)
    box = await client.sandboxes.get(SANDBOX_ID)
    opening = asyncio.create_task(box.pty().open())
    while not server.count("GET", f"/v1/sandboxes/{SANDBOX_ID}/pty"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # connected by now, most likely; if not, the library has to close it
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await asyncio.to_thread(left.wait, 5)


async def test_a_terminal_closed_while_it_reconnects_stays_closed(server: Server, client: AsyncHutch) -> None:
    again, go_on, left = asyncio.Event(), threading.Event(), threading.Event()
    here = asyncio.get_running_loop()
    heard: list[str] = []
    terminal(server, [[]])

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}/pty")
    async def pty(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        if "exec=" in request.query_string:
            here.call_soon_threadsafe(again.set)
            await asyncio.to_thread(go_on.wait, 5)
        await socket.prepare(request)
        await socket.send_json({"type": "start", "exec": state()})
        if "exec=" not in request.query_string:
            return cut(request)
        async for message in socket:
            heard.append(json.loads(message.data)["type"])
        left.set()
        return socket

    async with (await client.sandboxes.get(SANDBOX_ID)).pty() as shown:
        reader = asyncio.create_task(anext(aiter(shown), b"over"))
        await asyncio.wait_for(again.wait(), 5)
    go_on.set()
    assert await asyncio.wait_for(reader, 5) == b"over"
    assert await asyncio.to_thread(left.wait, 5)
    assert heard == ["close"], "the process is ended, as when it is closed at any other time"
