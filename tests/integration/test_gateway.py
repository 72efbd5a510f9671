"""The gateway before real sandboxes, spoken to byte by byte: what E2B's clients do not show."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from tests.machine import Machine
from websockets.asyncio.client import connect

from hutch.control.service import Control
from hutch.gateway import Gateway
from hutch.model.e2b import e2b_key, e2b_sandbox_id, hutch_sandbox_id
from hutch_guest.access import sign

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SERVER = Path(__file__).with_name("inside_server.py").read_text()
PORT = 8000
MIB = 1 << 20


class GatewayMachine(Machine):
    """A machine, and its gateway."""

    @property
    def gateway(self) -> str:
        return str(json.loads((self.root / "run" / "api.json").read_text())["gateway"])

    def e2b(self) -> httpx.AsyncClient:
        """E2B's control API."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"X-API-KEY": e2b_key(self.key) or ""}, timeout=60, trust_env=False
        )

    def memory(self) -> int:
        """Bytes of memory that the server itself has."""
        status = Path(f"/proc/{self._processes['api'].pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024


class Box:
    """A sandbox in which `inside_server.py` listens."""

    def __init__(self, machine: GatewayMachine, made: dict[str, str]) -> None:
        self.machine = machine
        self.id = made["sandboxID"]
        self.token = made["envdAccessToken"]

    def headers(self, port: int = PORT) -> dict[str, str]:
        return {"E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": str(port), "X-Access-Token": self.token}

    def client(self, port: int = PORT) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.machine.gateway, headers=self.headers(port), timeout=60, trust_env=False)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        at = urlsplit(self.machine.gateway)
        return await asyncio.open_connection(at.hostname, at.port)

    def head(self, method: str, path: str, *fields: str) -> bytes:
        routing = [f"E2b-Sandbox-Id: {self.id}", f"E2b-Sandbox-Port: {PORT}", "Host: 127.0.0.1"]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *routing, *fields, "", ""]).encode()

    async def serve(self, token: dict[str, str] | None = None) -> None:
        """Start the server inside, and wait until it answers; `token`: what its ports need."""
        async with self.client(49983) as guest:
            files = {"file": ("/tmp/server.py", SERVER)}
            assert (await guest.post("/files", files=files)).status_code == 200
            program = {"cmd": "/usr/bin/python3", "args": ["/tmp/server.py", str(PORT)]}
            body = json.dumps({"process": program, "stdin": False}).encode()
            envelope = b"\0" + len(body).to_bytes(4, "big") + body
            kind = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
            async with guest.stream("POST", "/process.Process/Start", content=envelope, headers=kind) as answer:
                assert answer.status_code == 200  # it outlives this call
                async for _ in answer.aiter_raw():
                    break
        async with self.client() as client:
            while (await client.get("/page", headers=token)).status_code != 200:
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(standard_template: str) -> AsyncIterator[GatewayMachine]:
    made = GatewayMachine(slots_ahead="2", domain="box.test:9")
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def make(machine: GatewayMachine, **body: object) -> Box:
    async with machine.e2b() as api:
        answer = await api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 600} | body)
    assert answer.status_code == 201, answer.text
    box = Box(machine, answer.json())
    await box.serve()
    return box


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box(machine: GatewayMachine) -> Box:
    """One that the tests share."""
    return await make(machine)


async def test_by_host_name_and_by_headers(machine: GatewayMachine, box: Box) -> None:
    async with httpx.AsyncClient(base_url=machine.gateway, trust_env=False) as anybody:
        host = {"Host": f"{PORT}-{box.id}.box.test:9"}
        assert (await anybody.get("/page", headers=host)).text == "page"
        assert (await anybody.get("/page")).status_code == 400
        assert (await anybody.get("/page", headers={"Host": f"{PORT + 1}-{box.id}.box.test"})).status_code == 502
    async with machine.client() as api:
        assert (await api.get("/v1/gateway")).json() == {"url": machine.gateway, "domain": "box.test:9"}


async def test_connections_are_kept(box: Box) -> None:
    reader, writer = await box.open()
    for _ in range(3):
        writer.write(box.head("GET", "/page"))
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(4) == b"page"
    writer.write(box.head("GET", "/page") * 2)  # one after the other, without waiting
    for _ in range(2):
        await reader.readuntil(b"\r\n\r\npage")
    writer.close()


async def test_bodies_pass_in_both_framings(box: Box) -> None:
    async with box.client() as client:
        data = hashlib.shake_256(b"x").digest(5 * MIB)
        assert (await client.post("/digest", content=data)).text == hashlib.sha256(data).hexdigest()

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 100_000):
                yield data[at : at + 100_000]

        assert (await client.post("/echo", content=pieces())).content == data
        assert (await client.get("/until-close")).text == "no length, no chunks"
        assert (await client.head("/page")).headers["content-length"] == "4"


async def test_answers_stream_as_they_come(box: Box) -> None:
    async with box.client() as client, client.stream("GET", "/slow") as answer:
        chunks = answer.aiter_raw()
        started = asyncio.get_running_loop().time()
        assert await anext(chunks) == b"first"
        assert asyncio.get_running_loop().time() - started < 0.9
        assert await anext(chunks) == b"second"


async def test_web_sockets(box: Box) -> None:
    url = box.machine.gateway.replace("http", "ws") + "/socket"
    async with connect(url, additional_headers=box.headers(), proxy=None) as socket:
        for message in ("one", "x" * 200_000):
            await socket.send(message)
            assert await socket.recv() == message


async def test_web_sockets_leave_nothing_behind(box: Box) -> None:
    descriptors = Path(f"/proc/{box.machine._processes['api'].pid}/fd")
    url = box.machine.gateway.replace("http", "ws") + "/socket"
    before = len(list(descriptors.iterdir()))
    for politely in (True, False) * 4:
        socket = await connect(url, additional_headers=box.headers(), proxy=None)
        await socket.send("one")
        assert await socket.recv() == "one"
        if politely:
            await socket.close()
        socket.transport.close()
    async with asyncio.timeout(10):
        while len(list(descriptors.iterdir())) > before:
            await asyncio.sleep(0.1)


async def test_a_snapshot_in_the_middle_of_an_answer_without_length_cuts_it(machine: GatewayMachine, box: Box) -> None:
    reader, writer = await box.open()
    writer.write(box.head("GET", "/until-close-slow"))
    await reader.readuntil(b"\r\n\r\n")
    async with machine.e2b() as api:
        assert (await api.post(f"/sandboxes/{box.id}/snapshots", json={})).status_code == 201
    with pytest.raises(ConnectionResetError):  # an end would make a part of it the whole
        async with asyncio.timeout(10):
            while True:
                await reader.readexactly(1)
    writer.close()


async def test_browsers_may_ask_before_they_can_name_the_sandbox(machine: GatewayMachine, box: Box) -> None:
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with httpx.AsyncClient(base_url=machine.gateway, trust_env=False) as browser:
        answer = await browser.options("/process.Process/Start", headers=asking)
        assert answer.status_code == 204 and answer.headers["access-control-allow-headers"] == "*"
        named = asking | {"Host": f"{PORT}-{box.id}.box.test"}
        assert (await browser.options("/page", headers=named)).status_code == 501  # the server's own answer


async def test_memory_stays_flat_when_nobody_reads(box: Box) -> None:
    before = box.machine.memory()
    reader, writer = await box.open()
    writer.write(box.head("GET", "/endless"))
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(1.5)
    assert box.machine.memory() - before < 24 * MIB
    writer.close()
    reader, writer = await box.open()
    writer.write(box.head("POST", "/ignore", f"Content-Length: {1 << 40}"))
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while sent < 64 * MIB:
                writer.write(bytes(MIB))
                await writer.drain()
                sent += MIB
    assert sent < 64 * MIB and box.machine.memory() - before < 24 * MIB
    writer.transport.abort()


async def test_one_connection_too_many_is_told_so() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    gateway = Gateway(cast(Control, None), listener, most=2)
    await gateway.start()
    try:
        opened = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
        assert b" 429 " in await opened[2][0].readuntil(b"\r\n\r\n")
        opened[0][1].write(b"GET / HTTP/1.1\r\n\r\n")  # the first two are served: this one names no sandbox
        assert b" 400 " in await opened[0][0].readuntil(b"\r\n\r\n")
        for _, writer in opened:
            writer.close()
    finally:
        await gateway.stop()


async def test_an_unused_way_into_a_sandbox_is_closed_and_opened_again(box: Box) -> None:
    def ways() -> set[str]:
        """Of the server into sandboxes: of each, the node has a leash."""
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        leashes, connected = str(box.machine.root / "run" / "dial.sock"), "03"
        return {line[6] for line in lines if line[5] == connected and line[7:] == [leashes]}

    before = ways()
    reader, writer = await box.open()
    writer.write(box.head("GET", "/page"))
    await reader.readuntil(b"\r\n\r\npage")
    opened = ways() - before
    assert opened
    async with asyncio.timeout(60):
        while opened & ways():
            await asyncio.sleep(0.5)
    writer.write(box.head("GET", "/page"))
    await reader.readuntil(b"\r\n\r\npage")
    writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(box: Box, request_bytes: bytes) -> None:
    reader, writer = await box.open()
    writer.write(request_bytes)
    assert (await reader.read(16)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_nothing_is_smuggled_into_the_guest(box: Box) -> None:
    """Our own token is added to requests for the guest: a second request inside a first one's body must not get it."""
    reader, writer = await box.open()
    inner = "GET /hutch/processes HTTP/1.1\r\nHost: x\r\n\r\n"
    fields = [f"E2b-Sandbox-Id: {box.id}", "E2b-Sandbox-Port: 49983", f"Content-Length: {len(inner)}", "Host: x"]
    writer.write(("\r\n".join(["GET /health HTTP/1.1", *fields, "", ""]) + inner).encode())
    assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
    writer.write("\r\n".join(["GET /hutch/processes HTTP/1.1", *fields[:2], "", ""]).encode())
    assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_the_audit_log_has_what_a_call_to_the_guest_asks_for(machine: GatewayMachine, box: Box) -> None:
    """However its message comes; and of input only that it was sent."""
    asked = {"process": {"cmd": "/bin/cat", "args": ["-u", "-"], "envs": {"KEY": "hidden"}}, "tag": "told"}
    raw = json.dumps(asked).encode()
    message = b"\0" + len(raw).to_bytes(4, "big") + raw
    fields = [f"E2b-Sandbox-Id: {box.id}", "E2b-Sandbox-Port: 49983", f"X-Access-Token: {box.token}", "Host: x"]
    fields += ["Content-Type: application/connect+json", "Authorization: Basic cm9vdDo=", "Expect: 100-continue"]
    reader, writer = await box.open()
    head = ["POST /process.Process/Start HTTP/1.1", *fields, "Transfer-Encoding: chunked", "", ""]
    writer.write("\r\n".join(head).encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    for piece in (message[:3], message[3:40], message[40:]):
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await reader.readuntil(b'{"start":{"pid":')
    async with box.client(49983) as guest:
        known = {"process": {"tag": "told"}}
        typed = known | {"input": {"stdin": base64.b64encode(b"password\n").decode()}}
        for call, body in (("SendInput", typed), ("CloseStdin", known)):
            answer = await guest.post(f"/process.Process/{call}", json=body)
            assert answer.status_code == 200, answer.text
        unreadable = await guest.post("/process.Process/SendSignal", content=b'{"process":')
        assert unreadable.status_code == 400
    await reader.readuntil(b'"exited":true')
    writer.close()
    async with machine.client() as api:
        query = {"subject": str(hutch_sandbox_id(box.id)), "limit": 1000}
        answer = await api.get("/v1/audit", params=query)
        records = answer.json()["records"]
    told = [(each["detail"].get("user"), each["detail"]["body"]) for each in records if "body" in each["detail"]]
    start = {"process": {"cmd": "/bin/cat", "args": ["-u", "-"]}}
    assert told[-2:] == [("root", start), (None, known)]
    assert [each["outcome"] for each in records if each["action"] == "input"] == ["begun"]
    assert "hidden" not in answer.text and "cGFzc3dvcmQK" not in answer.text


async def test_a_body_that_a_server_does_not_read_answers_no_other_request(box: Box) -> None:
    inner = "GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    for field, body in ((f"Content-Length: {len(inner)}", inner), ("Transfer-Encoding: chunked", chunked)):
        reader, writer = await box.open()
        asked = box.head("GET", "/page").decode().removesuffix("\r\n") + f"{field}\r\n\r\n{body}"
        writer.write(asked.encode() + box.head("GET", "/none"))
        assert (await reader.readuntil(b"\r\n\r\npage")).startswith(b"HTTP/1.1 200")
        assert (await reader.readuntil(b"\r\n\r\nnothing")).count(b"HTTP/1.1") == 1
        writer.close()


async def test_a_hostile_answer_is_cut(box: Box) -> None:
    async with box.client() as client:
        assert (await client.get("/nonsense")).status_code == 502
        assert (await client.get("/hang-up")).status_code == 502
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.get("/too-short")


async def test_kill_cuts_what_is_under_way(machine: GatewayMachine) -> None:
    made = await make(machine)
    streams = []
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: a2V5")
    for path, fields in (("/endless-slow", ()), ("/until-close-slow", ()), ("/socket", upgrade)):
        reader, writer = await made.open()
        writer.write(made.head("GET", path, *fields))
        await reader.readuntil(b"\r\n\r\n")
        streams.append((reader, writer))
    async with machine.e2b() as api:
        assert (await api.delete(f"/sandboxes/{made.id}")).status_code == 204
    for reader, writer in streams:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                while True:  # an end that looks like one would be wrong
                    await reader.readexactly(1)
        writer.close()
    async with made.client(49983) as guest:
        answer = await guest.get("/health")
        assert answer.status_code == 502 and "was not found" in answer.json()["message"]


async def test_a_paused_sandbox_wakes_for_a_request(machine: GatewayMachine) -> None:
    made = await make(machine, autoResume={"enabled": True})
    async with machine.e2b() as api:
        assert (await api.post(f"/sandboxes/{made.id}/pause", json={})).status_code == 204
        assert (await api.get(f"/sandboxes/{made.id}")).json()["state"] == "paused"
        async with httpx.AsyncClient(base_url=machine.gateway, trust_env=False) as stranger:
            routing = {name: value for name, value in made.headers(49983).items() if name != "X-Access-Token"}
            for method in ("GET", "OPTIONS"):
                assert (await stranger.request(method, "/health", headers=routing)).status_code == 502
        assert (await api.get(f"/sandboxes/{made.id}")).json()["state"] == "paused"
        async with made.client() as client:
            answers = await asyncio.gather(*(client.get("/page") for _ in range(5)))
        assert [answer.text for answer in answers] == ["page"] * 5
        assert (await api.get(f"/sandboxes/{made.id}")).json()["state"] == "running"
        assert (await api.post(f"/sandboxes/{made.id}/pause", json={"memory": False})).status_code == 204
        async with made.client() as client:
            assert (await client.get("/page")).status_code == 502  # its server would not be there
        assert (await api.get(f"/sandboxes/{made.id}")).json()["state"] == "paused"


async def test_a_restarted_server_knows_the_same_tokens(machine: GatewayMachine, box: Box) -> None:
    machine.kill("api")
    machine.spawn("api")
    await machine.ready()
    async with machine.e2b() as api:
        seen = (await api.get(f"/sandboxes/{box.id}")).json()
        assert seen["envdAccessToken"] == box.token
    async with box.client(49983) as guest:
        assert (await guest.get("/envs")).json()["E2B_SANDBOX_ID"] == box.id


async def test_sandboxes_of_hutch_itself_are_private_and_out_of_the_lists(machine: GatewayMachine) -> None:
    own = e2b_sandbox_id((await machine.create())["id"])
    routing = {"E2b-Sandbox-Id": own, "E2b-Sandbox-Port": "80"}
    async with machine.e2b() as api, httpx.AsyncClient(base_url=machine.gateway, trust_env=False) as anybody:
        assert own not in [each["sandboxID"] for each in (await api.get("/v2/sandboxes")).json()]
        connected = (await api.post(f"/v2/sandboxes/{own}/connect", json={})).json()
        token = {"e2b-traffic-access-token": connected["trafficAccessToken"]}
        assert (await anybody.get("/", headers=routing)).status_code == 403
        assert (await anybody.get("/", headers=routing | token)).status_code == 502  # nothing listens
        signature = sign("/etc/hostname", "read", "", connected["envdAccessToken"])
        signed = {"path": "/etc/hostname", "signature": signature}
        assert (await anybody.get("/files", params=signed)).status_code == 200
        assert (await api.delete(f"/sandboxes/{own}")).status_code == 204


async def test_a_port_is_public_for_as_long_as_its_owner_says(machine: GatewayMachine) -> None:
    own = (await machine.create(public_ports=[9]))["id"]
    ports = f"/v1/sandboxes/{own}/ports"
    async with machine.e2b() as theirs:
        made = Box(machine, (await theirs.post(f"/v2/sandboxes/{own}/connect", json={})).json())
    async with machine.client() as api, httpx.AsyncClient(base_url=machine.gateway, trust_env=False) as anybody:
        way = (await api.get(f"{ports}/{PORT}")).json()
        token = {way["traffic_header"]: way["traffic_token"]}
        assert way["url"] == f"https://{PORT}-{made.id}.box.test:9" and way["headers"] == token
        await made.serve(token)
        by_name = {"Host": way["url"].removeprefix("https://")}
        by_headers = {"E2b-Sandbox-Id": made.id, "E2b-Sandbox-Port": str(PORT)}

        async def answers(more: dict[str, str]) -> list[int]:
            return [(await anybody.get("/page", headers=each | more)).status_code for each in (by_name, by_headers)]

        assert await answers({}) == [403, 403] and await answers(token) == [200, 200]
        opened = (await api.put(f"{ports}/{PORT}", json={"public": True})).json()
        assert opened["public"] and opened["headers"] == {} and await answers({}) == [200, 200]
        other = by_headers | {"E2b-Sandbox-Port": str(PORT + 1)}
        assert (await anybody.get("/page", headers=other)).status_code == 403
        streams = []
        for fields in ((), (f"{way['traffic_header']}: {way['traffic_token']}",)):
            reader, writer = await made.open()
            writer.write(made.head("GET", "/endless-slow", *fields))
            await reader.readuntil(b"\r\n\r\n")
            streams.append((reader, writer))
        (stranger, _), (friend, _) = streams
        assert not (await api.put(f"{ports}/{PORT}", json={"public": False})).json()["public"]
        assert await answers({}) == [403, 403] and await answers(token) == [200, 200]
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(30):
                while True:
                    await stranger.readexactly(1)
        while not friend.at_eof() and len(await friend.read(1 << 16)) == 1 << 16:
            pass  # what has come meanwhile
        assert await friend.readexactly(1)  # and it goes on
        for _, writer in streams:
            writer.close()
        assert (await api.post(f"/v1/sandboxes/{own}/pause")).status_code == 200
        assert await answers({}) == [403, 403]
        assert (await api.put(f"{ports}/{PORT}", json={"public": True})).status_code == 200
        assert (await api.get(f"/v1/sandboxes/{own}")).json()["state"] == "paused"
        assert await answers({}) == [200, 200]  # which wakes it
        assert [each["port"] for each in (await api.get(ports)).json()["ports"]] == [9, PORT]
        assert (await api.delete(f"/v1/sandboxes/{own}")).status_code == 204


async def test_errors_are_what_e2bs_clients_can_read(machine: GatewayMachine) -> None:
    async with machine.e2b() as api:
        cases = [
            (await api.get("/sandboxes/nonsense"), 404),
            (await api.post("/v2/sandboxes", content=b"{"), 400),
            (await api.post("/v2/sandboxes", json={"templateID": "no-such"}), 404),
            (await api.post("/v2/sandboxes", json={"timeout": 10**9}), 400),
            (await api.get("/v2/sandboxes", params={"state": "odd"}), 400),
            (await api.get("/v2/sandboxes", params={"nextToken": "?"}), 400),
            (await api.get("/sandboxes/x/y/z"), 404),
            (await api.post("/v3/templates", json={}), 400),
            (await api.get("/sandboxes", headers={"X-API-KEY": "e2b_00"}), 401),
        ]
    for answer, status in cases:
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] == status and answer.json()["message"]
