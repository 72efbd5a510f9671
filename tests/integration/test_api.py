"""The API over real sandboxes: a node and a server process of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import socket
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from tests.machine import Machine
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MIB = 1 << 20


class ApiMachine(Machine):
    """A machine whose server can be looked into."""

    @property
    def server(self) -> Path:
        """The server process, below /proc."""
        return Path("/proc") / str(self._processes["api"].pid)

    def sockets(self) -> int:
        """How many sockets the server holds."""
        return sum(_is_socket(link) for link in (self.server / "fd").iterdir())

    def memory(self) -> int:
        """Bytes of memory that the server itself has."""
        lines = dict(line.split(":", 1) for line in (self.server / "status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) * 1024

    def terminate(self) -> int:
        """SIGTERM to the server; its exit status."""
        self._processes["api"].terminate()
        return self._processes["api"].wait(30)


def _is_socket(link: Path) -> bool:
    try:
        return str(link.readlink()).startswith("socket:")
    except FileNotFoundError:
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(standard_template: str) -> AsyncIterator[ApiMachine]:
    made = ApiMachine(server_user="nobody", slots_ahead="2")
    try:
        await made.start()
        yield made
        for daemon, process in made._processes.items():
            assert process.poll() is None, f"{daemon} has died: {made.log(daemon)[-4000:]}"
    finally:
        await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(machine: ApiMachine) -> AsyncIterator[httpx.AsyncClient]:
    async with machine.client(timeout=120) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box(machine: ApiMachine) -> str:
    """A sandbox that the tests share, as a path below /v1."""
    created = await machine.create(template="standard", lifetime=1800, labels={"of": "test-api"})
    return f"/v1/sandboxes/{created['id']}"


async def run(client: httpx.AsyncClient, box: str, command: str, **more: Any) -> dict[str, Any]:
    answer = await client.post(f"{box}/exec", json={"command": command, **more})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def frames(lines: AsyncIterator[str]) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in lines]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it has not come true in time"
        await asyncio.sleep(0.1)


def socket_url(machine: ApiMachine, path: str) -> str:
    return "ws" + machine.url.removeprefix("http") + path


def dial(machine: ApiMachine, path: str) -> connect:
    headers = {"Authorization": f"Bearer {machine.key}"}
    return connect(socket_url(machine, path), additional_headers=headers, proxy=None)


# Sandboxes


async def test_plain_sandbox_runs_when_the_call_returns(client: httpx.AsyncClient, box: str) -> None:
    seen = (await client.get(box)).json()
    assert seen["state"] == "running" and seen["labels"] == {"of": "test-api"} and seen["task"] is None


async def test_the_network_of_a_sandbox_changes_and_what_it_refuses_is_told(
    client: httpx.AsyncClient, machine: ApiMachine
) -> None:
    assert (await client.put("/v1/policies/team", json={"allow": ["y.org"]})).json()["sandboxes"] == 0
    made = await machine.create(network={"mode": "rules", "allow": ["Example.org"], "policies": ["packages", "team"]})
    box = f"/v1/sandboxes/{made['id']}"
    assert (made["network"]["allow"], made["network"]["policies"]) == (["example.org"], ["packages", "team"])
    knock = "python3 -c 'import socket; socket.create_connection((\"192.0.2.7\", 443), 0.2)' || true"
    await run(client, box, knock)
    page = (await client.get(f"{box}/egress", params={"wait": 20})).json()
    (entry,) = page["entries"]
    assert (entry["allowed"], entry["address"], entry["reason"]) == (False, "192.0.2.7", "not in policy")
    assert page["next"] == entry["seq"]
    saved = (await client.put("/v1/policies/team", json={"allow": ["192.0.2.7:443"]})).json()
    assert (saved["sandboxes"], saved["pending"]) == (1, 0)
    await run(client, box, knock)
    page = (await client.get(f"{box}/egress", params={"wait": 20, "after": page["next"]})).json()
    assert [(each["allowed"], each["rule"]) for each in page["entries"]] == [(True, "192.0.2.7:443")]
    for method, name, status, code in (
        ("DELETE", "team", 409, "conflict"),
        ("PUT", "packages", 400, "invalid_policy"),
        ("PUT", "Not-A-Name", 400, "invalid_request"),
        ("GET", "nothing", 404, "not_found"),
    ):
        body = {"json": {"allow": []}} if method == "PUT" else {}
        answer = await client.request(method, f"/v1/policies/{name}", **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    changed = await client.put(f"{box}/network", json={"mode": "rules", "allow": ["192.0.2.7:443"]})
    assert changed.json()["network"]["allow"] == ["192.0.2.7:443"]
    for wrong in ({"allow": ["*"]}, {"allow": ["10.0.0.1"]}, {"policies": ["nothing"]}, {"deny": ["example.org"]}):
        refused = await client.put(f"{box}/network", json={"mode": "rules", **wrong})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_policy"), refused.text
        again = await client.post("/v1/sandboxes", json={"network": {"mode": "rules", **wrong}})
        assert (again.status_code, again.json()["code"]) == (400, "invalid_policy"), again.text
    fork = (await client.post(f"{box}/fork", json={"count": 1})).json()["sandboxes"][0]
    assert fork["network"]["allow"] == ["192.0.2.7:443"]
    assert (await client.delete("/v1/policies/team")).status_code == 204
    for each in (made, fork):
        await client.delete(f"/v1/sandboxes/{each['id']}")


async def test_list_filters_by_label_and_pages(machine: ApiMachine, client: httpx.AsyncClient, box: str) -> None:
    others = await asyncio.gather(*(machine.create(labels={"of": "pages"}) for _ in range(3)))
    pages, cursor = [], None
    while True:
        query = {"label": "of=pages", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/sandboxes", params=query)).json()
        pages.append([sandbox["id"] for sandbox in page["sandboxes"]])
        if (cursor := page["next_cursor"]) is None:
            break
    assert [len(page) for page in pages] == [2, 1]
    assert sorted(id for page in pages for id in page) == sorted(other["id"] for other in others)
    await asyncio.gather(*(client.delete(f"/v1/sandboxes/{other['id']}") for other in others))


async def test_two_deletes_at_once_are_one(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    path = f"/v1/sandboxes/{(await machine.create())['id']}"
    answers = await asyncio.gather(client.delete(path), client.delete(path))
    assert [answer.status_code for answer in answers] == [204, 204]
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).json()["state"] == "stopped"
    answer = await client.post(f"{path}/exec", json={"command": "true"})
    assert answer.status_code == 409 and answer.json()["code"] == "sandbox_not_running"


async def test_same_idempotency_key_at_once_makes_one_sandbox(client: httpx.AsyncClient) -> None:
    async def create() -> httpx.Response:
        headers = {"Idempotency-Key": "race-1"}
        return await client.post("/v1/sandboxes", json={"labels": {"of": "race"}}, headers=headers)

    answers = await asyncio.gather(*(create() for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(ids) == 1
    listed = (await client.get("/v1/sandboxes?label=of=race&all=true")).json()["sandboxes"]
    assert {sandbox["id"] for sandbox in listed} == ids
    again = await create()
    assert again.status_code == 201 and again.json()["id"] in ids
    other = await client.post("/v1/sandboxes", json={"labels": {}}, headers={"Idempotency-Key": "race-1"})
    assert other.status_code == 409 and other.json()["code"] == "idempotency_conflict"
    await client.delete(f"/v1/sandboxes/{ids.pop()}")


async def test_unknown_template_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/sandboxes", json={"template": "no-such"})
    assert answer.status_code == 400 and answer.json()["code"] == "unknown_template"


# States


async def test_any_call_that_needs_it_wakes_a_paused_sandbox(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    path = f"/v1/sandboxes/{(await machine.create())['id']}"
    await run(client, path, "echo kept > a")
    paused = await client.post(f"{path}/pause")
    assert paused.status_code == 200 and paused.json()["state"] == "paused"
    assert (await client.get("/v1/sandboxes?state=paused")).json()["sandboxes"][0]["paused_at"]
    assert (await client.get(path)).json()["snapshot"] == paused.json()["snapshot"]
    answers = await asyncio.gather(*(client.get(f"{path}/files", params={"path": "a"}) for _ in range(8)))
    assert [answer.text for answer in answers] == ["kept\n"] * 8
    assert (await client.get(path)).json()["state"] == "running"
    await client.post(f"{path}/pause")
    async with dial(machine, f"{path}/pty?command=cat%20a") as terminal:
        assert b"kept" in b"".join([part async for part in terminal if isinstance(part, bytes)])
    await client.delete(path)


async def test_an_idle_sandbox_is_paused_under_an_open_terminal(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    path = f"/v1/sandboxes/{(await machine.create(idle_timeout=3))['id']}"

    async def is_paused() -> bool:
        return bool((await client.get(path)).json()["state"] == "paused")

    async with dial(machine, f"{path}/pty?command=cat") as terminal:
        for _ in range(5):
            await terminal.send(b"key\r")
            await asyncio.sleep(1)
            assert not await is_paused()
        await until(is_paused, 30)
        await terminal.send(b"awake\r")
        seen = b""
        while b"awake" not in seen:
            part = await asyncio.wait_for(terminal.recv(), 30)
            seen += part if isinstance(part, bytes) else b""
    await client.delete(path)


async def test_snapshots_rollback_fork_and_timeline(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    path = f"/v1/sandboxes/{(await machine.create())['id']}"
    await run(client, path, "echo one > a")
    taken = await client.post(f"{path}/snapshots", json={"name": "clean"})
    assert taken.status_code == 201 and taken.json()["stopped_ms"] > 0
    clean = taken.json()["id"]
    await run(client, path, "echo two > a")
    key = {"Idempotency-Key": f"fork-{time.time_ns()}"}
    forks = [await client.post(f"{path}/fork", json={"count": 2, "from": clean}, headers=key) for _ in range(2)]
    assert forks[0].status_code == 201 and forks[0].json() == forks[1].json()
    made = [f"/v1/sandboxes/{each['id']}" for each in forks[0].json()["sandboxes"]]
    assert [(await run(client, each, "cat a"))["stdout"] for each in made] == ["one\n"] * 2
    back = await client.post(f"{path}/rollback", json={"snapshot": clean})
    assert back.status_code == 200, back.text
    assert (await run(client, path, "cat a"))["stdout"] == "one\n"
    tree = (await client.get(f"{path}/timeline")).json()["snapshots"]
    assert [(each["depth"], each["reason"], each["name"]) for each in tree] == [
        (0, "manual", "clean"),
        (1, "safety", None),
    ]
    assert tree[0]["created_by"].startswith("key_") and tree[0]["bytes"] > 0
    assert (await client.get(f"/v1/snapshots/{clean}")).json()["sandbox_id"] in path
    assert (await client.delete(f"/v1/snapshots/{clean}")).status_code == 204
    assert (await client.delete(f"/v1/snapshots/{clean}")).json()["code"] == "snapshot_not_found"
    refused = await client.post(f"{path}/rollback", json={"turn": 1})
    assert refused.status_code == 409 and "no task" in refused.json()["detail"]
    await asyncio.gather(*(client.delete(each) for each in (path, *made)))


async def test_idle_timeout_is_changed_later(client: httpx.AsyncClient, box: str) -> None:
    for body, timeout in (({"idle_timeout": 900}, 900), ({}, 900), ({"idle_timeout": None}, None)):
        answer = await client.patch(box, json=body)
        assert answer.status_code == 200 and answer.json()["idle_timeout"] == timeout
    assert (await client.patch(box, json={"idle_timeout": 0})).status_code == 400
    assert (await client.patch(box, json={"lifetime": 5})).status_code == 400


# Exec


async def test_exec_waits_for_the_end(client: httpx.AsyncClient, box: str) -> None:
    result = await run(client, box, "echo out; echo err >&2; exit 3", env={"A": "b"}, cwd="/tmp")
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("out\n", "err\n", 3)


async def test_exec_takes_argv_stdin_env_cwd_and_user(client: httpx.AsyncClient, box: str) -> None:
    command = ["sh", "-c", 'cat; echo "$A|$PWD|$(id -un)"']
    result = await run(client, box, command, stdin="in\n", env={"A": "b"}, cwd="/tmp", user="root")  # type: ignore[arg-type]
    assert result["stdout"] == "in\nb|/tmp|root\n"


async def test_timeout_kills_the_whole_tree(client: httpx.AsyncClient, box: str) -> None:
    result = await run(client, box, "setsid sleep 4711 & sleep 4711", timeout=1)
    assert result["timed_out"] and result["exit_code"] != 0
    assert (await run(client, box, "pgrep -fx 'sleep 4711' || echo none"))["stdout"] == "none\n"


async def test_streamed_exec_starts_with_its_id_and_ends_with_its_exit(client: httpx.AsyncClient, box: str) -> None:
    body = {"command": "echo one; sleep 0.3; printf '\\377'; exit 4", "stream": True}
    async with client.stream("POST", f"{box}/exec", json=body) as answer:
        seen = await frames(answer.aiter_lines())
    assert seen[0]["type"] == "start" and seen[0]["exec"]["id"].startswith("exe_")
    assert [frame["data"] for frame in seen if frame["type"] == "stdout"] == ["one\n", "/w=="]
    assert seen[-1]["type"] == "exit" and seen[-1]["exec"]["exit_code"] == 4


async def test_background_exec_is_found_again_from_any_offset(client: httpx.AsyncClient, box: str) -> None:
    body = {"command": "for i in 1 2 3; do echo $i; sleep 0.2; done", "background": True}
    started = await client.post(f"{box}/exec", json=body)
    assert started.status_code == 202
    path = f"{box}/exec/{started.json()['id']}"
    async with client.stream("GET", f"{path}/output") as answer:
        seen = await frames(answer.aiter_lines())
    assert "".join(frame.get("data", "") for frame in seen if frame["type"] == "stdout") == "1\n2\n3\n"
    first = next(frame for frame in seen if frame["type"] == "stdout")
    rest = [json.loads(line) for line in (await client.get(f"{path}/output?from={first['offset']}")).text.splitlines()]
    assert "".join(frame.get("data", "") for frame in rest if frame["type"] == "stdout") == "2\n3\n"
    assert (await client.get(path)).json()["exit_code"] == 0
    assert started.json()["id"] in [each["id"] for each in (await client.get(f"{box}/exec")).json()["execs"]]


async def test_stdin_signal_and_delete(client: httpx.AsyncClient, box: str) -> None:
    body = {"command": "cat > /tmp/stdin-seen; sleep 100", "background": True, "open_stdin": True}
    path = f"{box}/exec/{(await client.post(f'{box}/exec', json=body)).json()['id']}"
    assert (await client.post(f"{path}/stdin", content=b"hello ")).status_code == 204
    assert (await client.post(f"{path}/stdin?close=true", content=b"there")).status_code == 204

    async def written() -> bool:
        return (await run(client, box, "cat /tmp/stdin-seen"))["stdout"] == "hello there"

    await until(written)
    assert (await client.post(f"{path}/signal", json={"signal": "SIGTERM"})).status_code == 204

    async def ended() -> bool:
        return not (await client.get(path)).json()["running"]

    await until(ended)
    assert (await client.get(path)).json()["exit_code"] == 128 + 15
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).json()["code"] == "exec_not_found"


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "waiting"])
async def test_client_that_vanishes_frees_the_server_and_leaves_the_command(
    machine: ApiMachine, client: httpx.AsyncClient, box: str, stream: bool
) -> None:
    before = machine.sockets()
    url = urlsplit(machine.url)
    body = json.dumps({"command": "yes", "stream": stream}).encode()
    head = f"POST {box}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {machine.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    clients = [socket.create_connection((url.hostname, url.port)) for _ in range(5)]
    for each in clients:
        each.sendall(head.encode() + body)

    async def running() -> list[str]:
        execs = (await client.get(f"{box}/exec")).json()["execs"]
        return [each["id"] for each in execs if each["running"] and each["command"] == "yes"]

    async def held() -> bool:
        # Each of them holds its connection, and one to the sandbox. A client that goes before that may start nothing.
        return machine.sockets() > before + 5 and len(await running()) == 5

    await until(held)
    for each in clients:
        each.close()

    async def let_go() -> bool:
        return machine.sockets() <= before + 1

    await until(let_go)
    left = await running()
    assert len(left) == 5
    for exec_id in left:
        await client.delete(f"{box}/exec/{exec_id}")


async def test_client_that_reads_nothing_stalls_nobody(
    machine: ApiMachine, client: httpx.AsyncClient, box: str
) -> None:
    async with client.stream("POST", f"{box}/exec", json={"command": "yes", "stream": True}) as lazy:
        await anext(lazy.aiter_raw())
        rss = machine.memory()
        started = time.monotonic()
        for _ in range(20):
            assert (await run(client, box, "echo quick"))["stdout"] == "quick\n"
        assert time.monotonic() - started < 20
        assert machine.memory() - rss < 32 * MIB
    for each in (await client.get(f"{box}/exec")).json()["execs"]:
        await client.delete(f"{box}/exec/{each['id']}")


# Terminals


async def read_until(terminal: ClientConnection, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        while wanted not in seen:
            message = await terminal.recv()
            seen += message if isinstance(message, bytes) else b""
    return seen


async def test_terminal_echoes_resizes_and_ends(machine: ApiMachine, box: str) -> None:
    async with dial(machine, f"{box}/pty?cols=100&rows=30") as terminal:
        assert json.loads(await terminal.recv())["type"] == "start"
        await terminal.send(b"stty size; tty\n")
        await read_until(terminal, b"30 100")
        await terminal.send(json.dumps({"type": "resize", "cols": 120, "rows": 40}))
        await terminal.send(b"sleep 0.2; stty size\n")
        await read_until(terminal, b"40 120")
        await terminal.send(b"exit 7\n")
        with pytest.raises(ConnectionClosed) as closed:
            texts = []
            while True:
                message = await terminal.recv()
                texts += [json.loads(message)] if isinstance(message, str) else []
        assert texts[-1]["type"] == "exit" and texts[-1]["exec"]["exit_code"] == 7
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000


async def test_terminal_is_found_again_where_it_was(machine: ApiMachine, client: httpx.AsyncClient, box: str) -> None:
    async with dial(machine, f"{box}/pty?command=cat") as terminal:
        exec_id = json.loads(await terminal.recv())["exec"]["id"]
        await terminal.send(b"before\n")
        await read_until(terminal, b"before\r\nbefore")
        async with asyncio.timeout(10):
            while True:
                message = await terminal.recv()
                if isinstance(message, str) and json.loads(message)["type"] == "offset":
                    offset = json.loads(message)["offset"]
                    break
    async with dial(machine, f"{box}/pty?exec={exec_id}&from={offset}") as terminal:
        assert json.loads(await terminal.recv())["exec"]["running"]
        await terminal.send(b"after\n")
        seen = await read_until(terminal, b"after\r\nafter")
        assert b"before" not in seen
        await terminal.send(json.dumps({"type": "close"}))
        with pytest.raises(ConnectionClosed):
            while True:
                await terminal.recv()


async def test_terminal_refuses_what_it_does_not_know(machine: ApiMachine, box: str) -> None:
    async with dial(machine, f"{box}/pty?command=cat") as terminal:
        await terminal.recv()
        await terminal.send("{nonsense")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                message = json.loads(await terminal.recv())
                assert message["type"] == "error" and message["error"]["code"] == "invalid_request"
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4400


# Files


async def test_files_are_written_read_listed_moved_and_removed(client: httpx.AsyncClient, box: str) -> None:
    files = f"{box}/files"
    written = await client.put(f"{files}?path=/tmp/d/a.txt&mode=750", content=b"hello world")
    assert written.status_code == 200 and written.json()["size"] == 11 and written.json()["mode"] & 0o777 == 0o750
    read = await client.get(f"{files}?path=/tmp/d/a.txt")
    assert read.content == b"hello world" and read.headers["content-length"] == "11"
    assert read.headers["content-disposition"] == "attachment; filename*=UTF-8''a.txt"
    part = await client.get(f"{files}?path=/tmp/d/a.txt", headers={"Range": "bytes=6-8"})
    assert (part.status_code, part.content) == (206, b"wor") and part.headers["content-range"] == "bytes 6-8/11"
    tail = await client.get(f"{files}?path=/tmp/d/a.txt", headers={"Range": "bytes=-5"})
    assert (tail.status_code, tail.content) == (206, b"world")
    beyond = await client.get(f"{files}?path=/tmp/d/a.txt", headers={"Range": "bytes=11-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == "bytes */11"
    head = await client.head(f"{files}?path=/tmp/d/a.txt")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "11", b"")
    assert (await client.get(f"{files}/stat?path=/tmp/d")).json()["type"] == "directory"
    listed = (await client.get(f"{files}/list?path=/tmp/d")).json()["entries"]
    assert [entry["name"] for entry in listed] == ["a.txt"]
    assert (await client.post(f"{files}/mkdir", json={"path": "/tmp/e/f"})).status_code == 200
    moved = await client.post(f"{files}/move", json={"source": "/tmp/d/a.txt", "destination": "/tmp/e/f/b.txt"})
    assert moved.json()["path"] == "/tmp/e/f/b.txt"
    assert (await client.delete(f"{files}?path=/tmp/e")).status_code == 204
    gone = await client.get(f"{files}?path=/tmp/e/f/b.txt")
    assert gone.status_code == 404 and gone.json()["code"] == "file_not_found"


async def test_empty_file_is_a_file(client: httpx.AsyncClient, box: str) -> None:
    await client.put(f"{box}/files?path=/tmp/empty", content=b"")
    read = await client.get(f"{box}/files?path=/tmp/empty")
    assert (read.status_code, read.content) == (200, b"")


@pytest.mark.parametrize("path", ["/tmp", "/proc/self/mem/x", "/tmp/nul%00x"])
async def test_path_that_is_no_file_is_refused(client: httpx.AsyncClient, box: str, path: str) -> None:
    answer = await client.put(f"{box}/files?path={path}", content=b"x")
    assert answer.status_code in (400, 404), answer.text
    assert (await client.get(f"{box}/files?path={path}")).status_code in (400, 404)


async def test_directory_goes_in_and_out_as_a_tar(client: httpx.AsyncClient, box: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("sub/file.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"inner"))
    assert (await client.put(f"{box}/files/tar?path=/tmp/tree", content=packed.getvalue())).status_code == 204
    answer = await client.get(f"{box}/files/tar?path=/tmp/tree")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        found = tar.extractfile("sub/file.txt")
        assert found is not None and found.read() == b"inner"


async def test_upload_that_is_cut_leaves_nothing(machine: ApiMachine, client: httpx.AsyncClient, box: str) -> None:
    url = urlsplit(machine.url)
    with socket.create_connection((url.hostname, url.port)) as cut:
        head = f"PUT {box}/files?path=/tmp/cut/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {machine.key}\r\n"
        cut.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\n" + b"x" * 500_000)
        await asyncio.sleep(0.5)

    async def nothing() -> bool:
        return (await run(client, box, "find /tmp/cut -type f"))["stdout"] == ""

    await until(nothing)


@pytest.mark.slow
async def test_gigabyte_goes_in_and_out_with_flat_memory(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    size, block = 1024 * MIB, bytes(range(256)) * 4096
    expected = hashlib.sha256()
    for _ in range(size // len(block)):
        expected.update(block)
    created = await machine.create(resources={"disk_mib": 2048})
    path = f"/v1/sandboxes/{created['id']}"
    peak = before = machine.memory()

    async def body() -> AsyncIterator[bytes]:
        nonlocal peak
        for number in range(size // len(block)):
            if number % 64 == 0:
                peak = max(peak, machine.memory())
            yield block

    written = await client.put(f"{path}/files?path=/tmp/big", content=body())
    assert written.status_code == 200 and written.json()["size"] == size
    seen = hashlib.sha256()
    async with client.stream("GET", f"{path}/files?path=/tmp/big") as answer:
        assert answer.headers["content-length"] == str(size)
        async for chunk in answer.aiter_raw():
            seen.update(chunk)
            peak = max(peak, machine.memory())
    assert seen.hexdigest() == expected.hexdigest()
    assert peak - before < 48 * MIB, f"{before} -> {peak}"
    await client.delete(path)


# Tasks


COUNT = "for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done; echo report > report.txt; exit 0"


async def create_task(machine: ApiMachine, command: str, **more: Any) -> dict[str, Any]:
    created = await machine.create(template="standard", agent="command", task=command, **more)
    task: dict[str, Any] = created["task"]
    return task


async def server_sent(answer: httpx.Response) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and "data" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


async def test_task_answers_at_once_with_urls_and_streams_to_its_result(
    machine: ApiMachine, client: httpx.AsyncClient
) -> None:
    task = await create_task(machine, COUNT, outputs=["report.txt"])
    assert task["state"] in ("queued", "running") and task["events_url"].startswith(machine.url)
    headers = {"Accept": "text/event-stream"}
    async with client.stream("GET", task["events_url"], headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = [event async for event in server_sent(answer)]
    assert [offset for offset, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1] == "result" and seen[-1][2]["data"]["state"] == "succeeded"
    text = "".join(event["data"].get("text", "") for _, kind, event in seen if kind == "output")
    assert all(f"line {number}" in text for number in range(1, 6))
    ended = (await client.get(f"/v1/tasks/{task['id']}")).json()
    assert ended["state"] == "succeeded" and ended["last_offset"] == len(seen)
    assert [output["path"] for output in ended["outputs"]] == ["report.txt"]
    assert (await client.get(f"/v1/tasks/{task['id']}/outputs/files?path=report.txt")).text == "report\n"
    with tarfile.open(fileobj=io.BytesIO((await client.get(f"/v1/tasks/{task['id']}/outputs")).content)) as tar:
        assert "report.txt" in tar.getnames()
    again = await client.get(task["events_url"], headers=headers | {"Last-Event-ID": str(len(seen))})
    assert again.status_code == 204
    poll = await client.get(f"/v1/tasks/{task['id']}/events?from={len(seen) + 1}&follow=true")
    assert poll.json() == {"events": [], "next": len(seen) + 1}, "it does not wait for what cannot come"
    page = (await client.get(f"/v1/tasks/{task['id']}/events?from=2&limit=2")).json()
    assert [event["offset"] for event in page["events"]] == [2, 3] and page["next"] == 4


async def test_stream_that_is_cut_goes_on_where_it_was(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    task = await create_task(machine, COUNT)
    offsets: list[int] = []
    while not offsets or kind != "result":  # noqa: F821
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(offsets[-1])} if offsets else {})
        async with client.stream("GET", task["events_url"], headers=headers) as answer:
            async for offset, kind, _ in server_sent(answer):  # noqa: B007
                offsets.append(offset)
                break
    assert offsets == list(range(1, len(offsets) + 1)) and len(offsets) > 5


async def test_websocket_gives_every_event_and_closes_with_1000(machine: ApiMachine) -> None:
    task = await create_task(machine, COUNT)
    events = []
    async with connect(f"{task['stream_url']}?from=2&token={machine.key}", proxy=None) as stream:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                events.append(json.loads(await stream.recv()))
    assert [event["offset"] for event in events] == list(range(2, len(events) + 2))
    assert events[-1]["type"] == "result"
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000


async def test_cancelled_task_says_so(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    task = await create_task(machine, "echo begun; sleep 1000")

    async def running() -> bool:
        return (await client.get(f"/v1/tasks/{task['id']}")).json()["state"] == "running"

    await until(running)
    assert (await client.post(f"/v1/tasks/{task['id']}/cancel")).status_code == 200

    async def cancelled() -> bool:
        return (await client.get(f"/v1/tasks/{task['id']}")).json()["state"] == "cancelled"

    await until(cancelled)


async def test_uploaded_files_are_the_tasks_inputs(machine: ApiMachine, client: httpx.AsyncClient) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("words.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    uploaded = (await client.post("/v1/uploads", content=packed.getvalue())).json()
    inputs = [{"type": "upload", "upload": uploaded["id"], "path": "."}]
    task = await create_task(machine, "cat words.txt", inputs=inputs)
    async with connect(f"{task['stream_url']}?token={machine.key}", proxy=None) as stream:
        events = [json.loads(message) async for message in stream]
    assert "abc" in json.dumps(events) and events[-1]["data"]["state"] == "succeeded"


async def test_stop_of_the_server_ends_streams_cleanly_and_they_go_on_after_it(
    machine: ApiMachine, client: httpx.AsyncClient
) -> None:
    task = await create_task(machine, "for i in $(seq 40); do echo line $i; sleep 0.2; done")
    offsets: list[int] = []
    async with client.stream("GET", task["events_url"], headers={"Accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        stopping = None
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                offsets.append(int(line.removeprefix("id: ")))
            if len(offsets) == 5 and stopping is None:
                stopping = asyncio.create_task(asyncio.to_thread(machine.terminate))
    assert stopping is not None and await stopping == 0
    machine.spawn("api")
    await machine.ready()
    async with dial(machine, f"/v1/tasks/{task['id']}/stream?from={offsets[-1] + 1}") as stream:
        offsets += [json.loads(message)["offset"] async for message in stream]
    assert offsets == list(range(1, len(offsets) + 1))
    page = (await client.get(f"{machine.url}/v1/tasks/{task['id']}/events?limit=1000")).json()["events"]
    text = "\n".join(event["data"]["text"] for event in page if event["type"] == "output")
    assert text.split() == [word for number in range(1, 41) for word in ("line", str(number))]
