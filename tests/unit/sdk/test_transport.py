"""Which calls are repeated, which are not, and what the caller sees."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from aiohttp import web
from fastapi import FastAPI

from hutch import AsyncHutch, AsyncSandbox, Hutch
from hutch.api.server import Server as ApiServer
from hutch.errors import (
    BootFailed,
    IdempotencyConflict,
    InternalError,
    NodeUnavailable,
    RequestTimeout,
    SandboxNotFound,
    ServerUnavailable,
    Unauthorized,
)
from hutch.sdk._async.transport import KEEPALIVE_EXPIRY
from tests.unit.sdk.server import KEY, SANDBOX_ID, Server, cut, problem, sandbox, state


async def test_no_server_is_a_typed_error_with_a_hint(impatient: None) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with AsyncHutch(url, KEY) as hutch:
            with pytest.raises(ServerUnavailable) as caught:
                await hutch.node()
    assert caught.value.retryable and "hutch up" in str(caught.value) and url in str(caught.value)


def test_no_server_for_the_blocking_client(impatient: None) -> None:
    with Hutch("http://127.0.0.1:1", KEY) as hutch, pytest.raises(ServerUnavailable):
        hutch.node()


async def test_errors_are_raised_as_their_class(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}")
    async def missing(request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return problem(404, "sandbox_not_found", hint="look elsewhere")

    with pytest.raises(SandboxNotFound) as caught:
        await client.sandboxes.get(SANDBOX_ID)
    assert caught.value.hint == "look elsewhere"


async def test_ids_given_by_hand_cannot_name_another_route(server: Server, client: AsyncHutch) -> None:
    with pytest.raises(Exception, match="not scripted"):
        await client.sandboxes.get("../keys?x=")
    assert server.seen[-1][1] == "/v1/sandboxes/..%2Fkeys%3Fx%3D"


async def test_create_is_repeated_with_the_same_key_until_it_is_answered(server: Server, client: AsyncHutch) -> None:
    keys: list[str] = []

    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        keys.append(request.headers["Idempotency-Key"])
        match len(keys):
            case 1:
                return cut(request)  # the server has died with the request
            case 2:
                return problem(503, "node_unavailable", retryable=True)
            case 3:
                return problem(409, "idempotency_conflict")  # the first one is still at it
        return web.json_response(sandbox(), status=201)

    made = await client.sandboxes.create("standard")
    assert made.id == SANDBOX_ID
    assert len(keys) == 4 and len(set(keys)) == 1


def test_blocking_create_is_repeated_as_well(server: Server, blocking: Hutch) -> None:
    tries: list[str] = []

    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        tries.append(request.headers["Idempotency-Key"])
        return cut(request) if len(tries) == 1 else web.json_response(sandbox(), status=201)

    assert blocking.sandboxes.create().id == SANDBOX_ID
    assert len(tries) == 2 and len(set(tries)) == 1


async def test_two_creates_have_two_keys(server: Server, client: AsyncHutch) -> None:
    keys = set()

    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        keys.add(request.headers["Idempotency-Key"])
        return web.json_response(sandbox(), status=201)

    await asyncio.gather(*(client.sandboxes.create() for _ in range(5)))
    assert len(keys) == 5


async def test_a_conflict_on_the_first_try_is_an_error(server: Server, client: AsyncHutch) -> None:
    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        return problem(409, "idempotency_conflict")

    with pytest.raises(IdempotencyConflict):
        await client.sandboxes.create(idempotency_key="used-for-another-body")
    assert server.count("POST", "/v1/sandboxes") == 1


async def test_errors_that_another_try_does_not_mend_come_at_once(server: Server, client: AsyncHutch) -> None:
    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        return problem(500, "boot_failed")

    with pytest.raises(BootFailed):
        await client.sandboxes.create()
    assert server.count("POST", "/v1/sandboxes") == 1


async def test_a_node_that_stays_away_is_reported_in_the_end(
    server: Server, client: AsyncHutch, impatient: None
) -> None:
    @server.on("GET", "/v1/node")
    async def node(request: web.Request) -> web.StreamResponse:
        return problem(503, "node_unavailable", retryable=True)

    with pytest.raises(NodeUnavailable):
        await client.node()
    assert 2 <= server.count("GET", "/v1/node") <= 10


async def test_a_command_is_never_started_twice(server: Server, client: AsyncHutch) -> None:
    @server.on("POST", f"/v1/sandboxes/{SANDBOX_ID}/exec")
    async def start(request: web.Request) -> web.StreamResponse:
        return cut(request)

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox())

    box = await client.sandboxes.get(SANDBOX_ID)
    for attempt in (box.start("rm -r x"), box.run("rm -r x")):
        with pytest.raises(ServerUnavailable):
            await attempt
    assert server.count("POST", f"/v1/sandboxes/{SANDBOX_ID}/exec") == 2


async def test_a_server_that_does_not_answer_in_time(server: Server) -> None:
    @server.on("GET", "/v1/node")
    async def node(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.json_response({})

    async with AsyncHutch(server.url, KEY, request_timeout=0.2) as hutch:
        with pytest.raises(RequestTimeout):
            await hutch.node()
    assert server.count("GET", "/v1/node") == 1


async def test_a_server_that_is_no_hutch(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", "/v1/node")
    async def node(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>nginx</html>", content_type="text/html")

    with pytest.raises((InternalError, ValueError)):
        await client.node()


async def test_an_endless_error_body_is_not_read_to_its_end(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", "/v1/keys")
    async def keys(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=401)
        await response.prepare(request)
        try:
            for _ in range(100_000):
                await response.write(b"x" * 65_536)
        except ConnectionError:
            pass
        return response

    with pytest.raises(InternalError, match="401"):
        await client.keys.list()


async def test_a_wrong_key_is_unauthorized(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", "/v1/keys")
    async def keys(request: web.Request) -> web.StreamResponse:
        return problem(401, "unauthorized", hint="get one")

    with pytest.raises(Unauthorized):
        await client.keys.list()


async def test_proxies_of_the_environment_are_not_used_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    @server.on("GET", "/v1/templates")
    async def templates(request: web.Request) -> web.StreamResponse:
        return web.json_response({"templates": []})

    async with AsyncHutch(server.url, KEY) as hutch:
        assert await hutch.templates.list() == []


async def test_lists_are_read_page_by_page(server: Server, client: AsyncHutch) -> None:
    @server.on("GET", "/v1/sandboxes")
    async def page(request: web.Request) -> web.StreamResponse:
        assert request.query.getall("label") == ["a=1", "b=2"]
        cursor = request.query.get("cursor")
        following = {None: "two", "two": "three", "three": None}[cursor]
        return web.json_response({"sandboxes": [sandbox(template=cursor or "one")], "next_cursor": following})

    found = await client.sandboxes.list(labels={"a": "1", "b": "2"})
    assert [each.template for each in found] == ["one", "two", "three"]


async def test_the_context_manager_destroys_the_sandbox(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUTCH_URL", server.url)
    monkeypatch.setenv("HUTCH_API_KEY", KEY)

    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox(), status=201)

    @server.on("DELETE", f"/v1/sandboxes/{SANDBOX_ID}")
    async def delete(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    with pytest.raises(RuntimeError, match="mine"):
        async with await AsyncSandbox.create():
            raise RuntimeError("mine")
    assert server.count("DELETE", f"/v1/sandboxes/{SANDBOX_ID}") == 1


async def test_inputs_are_sent_ahead_and_refused_before_that(server: Server, client: AsyncHutch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.txt").write_text("hello")
    sent: list[bytes] = []
    bodies: list[dict[str, object]] = []

    @server.on("POST", "/v1/uploads")
    async def upload(request: web.Request) -> web.StreamResponse:
        sent.append(await request.read())
        return web.json_response({"id": "upl_" + "a" * 22, "size": 1, "expires_at": "2026-11-22T00:00:00Z"}, status=201)

    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response(sandbox(), status=201)

    await client.sandboxes.create(inputs=[tmp_path / "a.txt", "https://x.org/b.csv"])
    assert len(sent) == 1 and b"hello" in sent[0]
    assert bodies[0]["inputs"] == [
        {"type": "upload", "upload": "upl_" + "a" * 22, "path": "."},
        {"type": "url", "url": "https://x.org/b.csv", "path": "b.csv"},
    ]
    with pytest.raises(Exception, match="does not exist"):
        await client.sandboxes.create(inputs=[tmp_path / "a.txt", tmp_path / "b.txt"])
    with pytest.raises(Exception, match="lifetime"):
        await client.sandboxes.create(inputs=[tmp_path / "a.txt"], lifetime=-1)
    assert len(sent) == 1, "nothing is uploaded for a call that will be refused"


async def test_large_input_reaches_the_command_while_its_output_is_read(server: Server, client: AsyncHutch) -> None:
    received = 0
    done = asyncio.Event()
    base = f"/v1/sandboxes/{SANDBOX_ID}/exec"

    @server.on("GET", f"/v1/sandboxes/{SANDBOX_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox())

    @server.on("POST", base)
    async def start(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["open_stdin"] is True
        return web.json_response(state(), status=202)

    @server.on("POST", f"{base}/{state()['id']}/stdin")
    async def stdin(request: web.Request) -> web.StreamResponse:
        nonlocal received
        async for chunk in request.content.iter_any():
            received += len(chunk)
        done.set()
        return web.Response(status=204)

    @server.on("GET", f"{base}/{state()['id']}/output")
    async def output(request: web.Request) -> web.StreamResponse:
        from tests.unit.sdk.server import begin, frame

        response = await begin(request, "application/x-ndjson")
        await done.wait()  # like `wc -c`: nothing is printed before the end of the input
        await response.write(frame("stdout", 10, data=str(received)))
        await response.write(frame("exit", 20, exec=state(running=False, exit_code=0)))
        return response

    box = await client.sandboxes.get(SANDBOX_ID)
    result = await box.run("wc -c", stdin=(b"x" * 100_000 for _ in range(50)))
    assert result.stdout == "5000000" and result.exit_code == 0


def test_the_sdk_gives_up_an_idle_connection_long_before_the_server() -> None:
    """Else a request is now and then sent on a connection that is just being closed; a POST cannot be sent again."""
    server = ApiServer(FastAPI(), Path("unused"), "http://unused")
    assert server.config.timeout_keep_alive >= 4 * KEEPALIVE_EXPIRY
