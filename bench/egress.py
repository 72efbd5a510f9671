"""The fence and the broker: what they add to a connection, what passes through, and how soon a change of policy holds.

The firewall, the slots and the fence are the node's own; clients are plain processes in the slots' namespaces, so that
the figures are those of the egress and not of a sandbox's kernel. The internet is one more namespace on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from harness import Row, report, spread

SERVER, RESOLVER = "25.25.26.10", "25.25.26.53"
NAME = "bench.test"
CHUNK = bytes(1 << 18)
NAMED, DIRECT = 443, 8443
"""Ports of the same server: the way to one leads through the fence, that to the other through the firewall only."""
BROKERED, PLAIN = 8444, 8445
"""The same for HTTP: through the fence and the broker, and through the firewall only."""
TOKEN, PLACEHOLDER = "ghp_the-token-that-is-sent-to-the-host", "ghp_the-placeholder-that-is-swapped-by"


# --- the internet


async def serve(certificate: str) -> None:
    """TLS that sends as many bytes as the first line or the path of a request asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for port in (NAMED, DIRECT):
        await asyncio.start_server(send, SERVER, port, ssl=context, backlog=1024)
    for port in (BROKERED, PLAIN):
        await asyncio.start_server(answer, SERVER, port, ssl=context, backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ValueError):
        left = int(await reader.readline())
        while left > 0:
            writer.write(CHUNK[:left])
            left -= len(CHUNK)
            await writer.drain()
    writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        assert TOKEN.encode() in head
        left = int(head.split()[1].removeprefix(b"/"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left > 0:
            writer.write(CHUNK[:left])
            left -= len(CHUNK)
            await writer.drain()
    writer.close()


def name() -> None:
    """A name server that knows one name; a process of its own, for the other one is busy with handshakes."""
    answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(SERVER)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((RESOLVER, 53))
        print("ready", flush=True)
        while True:
            data, address = server.recvfrom(512)
            end = data.index(b"\0", 12) + 5
            server.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:end] + answer, address)


@contextlib.contextmanager
def internet() -> Iterator[Path]:
    tag = secrets.token_hex(2)
    space, link, net = f"hbw-{tag}", f"hbw{tag}", f"100.125.{secrets.randbelow(256)}"
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory) / "certificate.pem"
        sh(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={NAME} "
            f"-addext subjectAltName=DNS:{NAME} "
            f"-keyout {directory}/key -out {directory}/cert; cat {directory}/key {directory}/cert > {certificate}"
        )
        try:
            sh(
                f"ip netns add {space}; ip link add {link} type veth peer name eth0 netns {space};"
                f"ip addr add {net}.1/30 dev {link}; ip link set {link} up; ip -n {space} link set lo up;"
                f"ip -n {space} addr add {net}.2/30 dev eth0; ip -n {space} link set eth0 up;"
                f"ip -n {space} route add default via {net}.1"
            )
            for address in (SERVER, RESOLVER):
                sh(f"ip -n {space} addr add {address}/32 dev lo; ip route replace {address}/32 via {net}.2")
            with started(space, "--name"), started(space, "--serve", str(certificate)):
                yield certificate
        finally:
            subprocess.run(f"ip link del {link}; ip netns del {space}", shell=True, check=False, capture_output=True)


@contextlib.contextmanager
def started(space: str, *what: str) -> Iterator[None]:
    command = ["nsenter", f"--net=/run/netns/{space}", sys.executable, __file__, *what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield
        finally:
            server.kill()


def sh(command: str) -> None:
    subprocess.run(f"set -e; {command}", shell=True, check=True, capture_output=True)


# --- the client, in a slot


def client(what: str, count: int) -> object:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if what == "many":
        print("ready", flush=True)
        sys.stdin.readline()
    begin = time.perf_counter()
    resolve()
    told = time.perf_counter() - begin
    if what == "names":
        begin = time.perf_counter()
        ask(count)
        return count / (time.perf_counter() - begin)
    if what == "many":
        held = [opened(context, NAMED) for _ in range(count)]
        return sum(fetch(connection, 1000) == 1000 for connection in held), told * 1000
    if what in ("first", "bulk"):
        pair = (("direct", PLAIN), ("broker", BROKERED))
    else:
        pair = (("direct", DIRECT), ("fence", NAMED))
    ways: dict[str, list[float]] = {way: [] for way, _ in pair}
    for _ in range(count):
        for way, port in pair:
            begin = time.perf_counter()
            with opened(context, port) as connection:
                if what in ("first", "bulk"):
                    size = get(
                        connection, 1 if what == "first" else 100 << 20, TOKEN if way == "direct" else PLACEHOLDER
                    )
                    took = time.perf_counter() - begin
                    ways[way].append(took * 1000 if what == "first" else size / took / 1e6)
                elif what == "setup":
                    ways[way].append((time.perf_counter() - begin) * 1000)
                else:
                    size = fetch(connection, 100 << 20)
                    ways[way].append(size / (time.perf_counter() - begin) / 1e6)
        time.sleep(0.02)  # below the limit of new connections
    return ways


def opened(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection((SERVER, port), 30), server_hostname=NAME)


def fetch(connection: ssl.SSLSocket, size: int) -> int:
    connection.sendall(b"%d\n" % size)
    got, buffer = 0, bytearray(1 << 18)
    while got < size and (more := connection.recv_into(buffer)):
        got += more
    return got


def get(connection: ssl.SSLSocket, size: int, token: str) -> int:
    """The bytes of an answer's body."""
    head = f"GET /{size} HTTP/1.1\r\nHost: {NAME}:{BROKERED}\r\nAuthorization: Bearer {token}\r\n\r\n"
    connection.sendall(head.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = connection.recv(1 << 16)
        assert more, answer
        answer += more
    assert b" 200 " in answer[:20], answer
    got, buffer = len(answer.partition(b"\r\n\r\n")[2]), bytearray(1 << 18)
    while got < size and (more_bytes := connection.recv_into(buffer)):
        got += more_bytes
    return got


def many(spaces: list[str], count: int) -> dict[str, Any]:
    """A client in each of the namespaces, all at once. Not the node's loop starts them: that would wait for each of a
    hundred programs to begin while the others want the processors, and let in no name meanwhile."""
    clients = []
    for space in spaces:
        command = in_slot(space, "many", count)
        clients.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for each in clients:
        assert each.stdout is not None
        each.stdout.readline()
    begin = time.perf_counter()
    for each in clients:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [each.communicate()[0] for each in clients]
    took = time.perf_counter() - begin
    came = [json.loads(text) for text in said if text]
    return {"served": sum(served for served, _ in came), "names": [told for _, told in came], "took": took}


def in_slot(space: str, what: str, count: int) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{space}", sys.executable, __file__, "--client", what, str(count)]


QUESTION = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0)
QUESTION += b"".join(bytes([len(label)]) + label.encode() for label in NAME.split(".")) + b"\0\0\1\0\1"


def resolve() -> None:
    """As the C library does: it waits five seconds, twice."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(5)
        sender.connect(("169.254.169.253", 53))
        for _ in range(2):
            sender.send(QUESTION)
            with contextlib.suppress(TimeoutError):
                if sender.recv(512)[3] & 15 == 0:
                    return
    raise TimeoutError("the name is not answered")


def ask(count: int, at_once: int = 16) -> None:
    """Questions about the name, so many under way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(30)
        sender.connect(("169.254.169.253", 53))
        for _ in range(min(at_once, count)):
            sender.send(QUESTION)
        for number in range(count):
            assert sender.recv(512)[3] & 15 == 0
            if number + at_once < count:
                sender.send(QUESTION)


# --- the measurement


async def measure(options: argparse.Namespace) -> list[Row]:
    from pydantic import SecretStr

    from hutch.egress.brokering import Broker
    from hutch.egress.fence import guarded
    from hutch.egress.fencing import Fence
    from hutch.model import DenyAll, NetworkLimits
    from hutch.model.grant import BrokeredRules, GrantedSecret, SecretGrant
    from hutch.network.base import Services, Slot
    from hutch.network.slots import LinuxSlotPool
    from hutch.tls.minting import Authority

    place = f"{NAME}:{BROKERED}"
    rules = BrokeredRules(
        allow=[f"{NAME}:80,443,{BROKERED}", f"{SERVER}:{DIRECT},{PLAIN}"],
        limits=NetworkLimits(connections=4096, new_connections=2000),
        brokered=[place],
    )
    authority = Authority.make("hutch broker of a bench", [NAME])
    token = GrantedSecret(
        name="TOKEN",
        placeholder=SecretStr(PLACEHOLDER),
        value=SecretStr(TOKEN),
        hosts=[place],
        places=["bearer"],
    )
    grant = SecretGrant(authority=authority.certificate, key=SecretStr(authority.key), hosts=[place], secrets=[token])
    node = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))
    fence = Fence(node, (RESOLVER, 53), 60, lambda entry: None)
    broker = Broker(node, fence.uid, lambda entry: None)
    fence.door = broker.door
    tcp, dns = fence.listen()
    services = Services(llm=1, identity=2, tcp=tcp, dns=dns, uid=fence.uid, broker=broker.uid, resolver=fence.resolver)
    slots = LinuxSlotPool(node, "10.200.0.0/14", 4, services)
    fence.lead(slots)
    await slots.start({})
    try:
        slot = await slots.acquire("sbx_0", rules)
        await broker.grant("sbx_0", grant)
        await fence.allow("sbx_0", slot.guest_address, rules)
        await run(slot, "names", 1)
        await run(slot, "first", 3)
        used = [cpu_of(broker)]
        first = await run(slot, "first", options.connections)
        used.append(cpu_of(broker))
        bulk = await run(slot, "bulk", 4)
        used.append(cpu_of(broker))
        cpu = [cpu_of(fence)]
        setup = await run(slot, "setup", options.connections)
        cpu.append(cpu_of(fence))
        rate = await run(slot, "throughput", 4)
        cpu.append(cpu_of(fence))
        # As many as one sandbox may ask; what is more it is refused.
        names = await run(slot, "names", round(guarded.QUESTIONS[1]) // 3)
        changes = []
        for policy in (DenyAll(), rules) * options.changes:
            begin = time.perf_counter()
            await slots.set_policy(slot, policy)
            await fence.allow("sbx_0", slot.guest_address, policy)
            changes.append((time.perf_counter() - begin) * 1000)
        others: list[Slot] = []
        for number in range(1, options.sandboxes + 1):
            other = await slots.acquire(f"sbx_{number}", rules)
            await fence.allow(f"sbx_{number}", other.guest_address, rules)
            others.append(other)
        cpu.append(cpu_of(fence))
        spaces = [other.namespace for other in others]
        at_once = await output_of([sys.executable, __file__, "--many", "20", *spaces]) if spaces else None
        cpu.append(cpu_of(fence))
    finally:
        await fence.stop()
        await broker.stop()
        await slots.remove_all()
    added = [b - a for a, b in zip(setup["direct"], setup["fence"], strict=True)]
    share = [100 * b / a for a, b in zip(rate["direct"], rate["fence"], strict=True)]
    slower = [b - a for a, b in zip(first["direct"], first["broker"], strict=True)]
    part = [100 * b / a for a, b in zip(bulk["direct"], bulk["broker"], strict=True)]
    rows: list[Row] = [
        ("connection, TLS and a first byte, direct", "ms", spread(first["direct"])),
        ("connection, TLS and a first byte, through the broker", "ms", spread(first["broker"])),
        ("added by fence and broker", "ms", spread(slower)),
        ("HTTP throughput, direct", "MB/s", spread(bulk["direct"])),
        ("HTTP throughput, through the broker", "MB/s", spread(bulk["broker"])),
        ("share of the direct throughput, broker", "%", spread(part)),
        ("CPU of the broker, a connection", "ms", round(1000 * (used[1] - used[0]) / options.connections, 2)),
        ("CPU of the broker, a GB", "ms", round(1000 * (used[2] - used[1]) / (4 * 0.1048576))),
        ("connection and TLS handshake, direct", "ms", spread(setup["direct"])),
        ("connection and TLS handshake, through the fence", "ms", spread(setup["fence"])),
        ("added by the fence", "ms", spread(added)),
        ("TLS throughput, direct", "MB/s", spread(rate["direct"])),
        ("TLS throughput, through the fence", "MB/s", spread(rate["fence"])),
        ("share of the direct throughput", "%", spread(share)),
        ("names answered, one sandbox", "1/s", round(names)),
        ("CPU of the fence, a connection", "ms", round(1000 * (cpu[1] - cpu[0]) / options.connections, 2)),
        ("CPU of the fence, a GB", "ms", round(1000 * (cpu[2] - cpu[1]) / (4 * 0.1048576))),
        ("policy change in effect", "ms", spread(changes)),
    ]
    if at_once is not None:
        what = f"{options.sandboxes} slots, 20 connections each"
        rows += [
            (f"{what}: served", "connections", at_once["served"]),
            (f"{what}: all done after", "s", round(at_once["took"], 1)),
            (f"{what}: the name", "ms", spread(at_once["names"])),
            (f"{what}: CPU of the fence", "s", round(cpu[4] - cpu[3], 1)),
        ]
    return rows


def cpu_of(child: Any) -> float:
    """Seconds that its process has used."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(slot: Any, what: str, count: int) -> Any:
    return await output_of(in_slot(slot.namespace, what, count))


async def output_of(command: list[str]) -> Any:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, f"a client failed: {command}"
    return json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(description="egress")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--connections", type=int, default=100, help="connections on each way")
    parser.add_argument("--changes", type=int, default=25, help="changes of a policy, there and back")
    parser.add_argument("--sandboxes", type=int, default=100, help="slots with 20 connections each")
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--name", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--many", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    elif options.name:
        name()
    elif options.many:
        print(json.dumps(many(options.many[1:], int(options.many[0]))))
    elif options.client:
        print(json.dumps(client(options.client[0], int(options.client[1]))))
    else:
        with internet() as certificate:
            os.environ["SSL_CERT_FILE"] = str(certificate)  # whom the broker trusts
            rows = asyncio.run(measure(options))
        report("egress", rows, options.json)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is the table's
    main()
