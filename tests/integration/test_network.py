"""Slots and the firewall, with real namespaces. Sandboxes are stood in for by plain processes in the slot's
namespace; the internet by one more namespace with a public address, to which only this host has a route."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.leaks import assert_clean, look

from hutch.egress.fence.dns_wire import parse_told
from hutch.egress.unprivileged import socket_of
from hutch.errors import LimitReached
from hutch.model import AllowAll, DenyAll, NetworkRules
from hutch.network import firewall, subnets
from hutch.network.base import LLM_ADDRESS, Services, Slot
from hutch.network.connections import connections_of
from hutch.network.nflog import Packet, PacketLog, group_of
from hutch.network.slots import LinuxSlotPool

pytestmark = pytest.mark.root

POOL = "10.200.0.0/14"
RUN = secrets.randbelow(256)
"""Among the addresses to which the host gets routes: other runs on the same machine have others."""
PUBLIC = f"25.25.{RUN}.25"
PRIVATE = f"10.97.{RUN}.25"
METADATA = "169.254.169.254"
BLOCKED_SOON = 2.0
"""A refusal must be quicker than this; silence is taken for a drop after it."""

CONNECT = """
import socket, sys
source, address, port, wait = sys.argv[1:]
try:
    with socket.create_connection((address, int(port)), float(wait), source_address=(source, 0)) as connection:
        connection.settimeout(float(wait))
        print("said", connection.recv(100).decode())
except ConnectionRefusedError:
    print("refused")
except ConnectionResetError:
    print("reset")
except TimeoutError:
    print("silence")
except OSError as error:
    print("error", error.errno)
"""

AS_SOMEBODY = """
import os, socket, sys
where = sys.argv[1], int(sys.argv[2])
given = socket.create_connection(where, 5)
os.setresuid(65534, 65534, 65534)
print(given.recv(100).decode())
try:
    socket.create_connection(where, 5)
except OSError as error:
    print("error", error.errno)
"""

SERVE = """
import socket, sys
server = socket.create_server(("", int(sys.argv[1])), backlog=64)
print(server.getsockname()[1], flush=True)
while True:
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
    if len(sys.argv) == 2: connection.close()
    else: kept = connection
"""


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


def inside(namespace: str, *command: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-I", "-S", "-c", *command]


async def connect(
    namespace: str, address: str, port: int, *, source: str = "0.0.0.0", wait: float = BLOCKED_SOON
) -> str:
    """What a connection from this namespace comes to: `said <text>`, `refused`, `silence`, ..."""
    command = inside(namespace, CONNECT, source, address, str(port), str(wait))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode().strip()


@contextlib.contextmanager
def listening(namespace: str | None, *options: str) -> Iterator[int]:
    """A server that tells everybody their address; its port."""
    code = [SERVE, "0", *options]
    command = inside(namespace, *code) if namespace else [sys.executable, "-I", "-S", "-c", *code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@dataclass(frozen=True)
class World:
    """The outside: a namespace behind a link of the host, with a public and a private address."""

    namespace: str
    link: str
    host: str
    address: str
    port: int


@pytest.fixture
def world() -> Iterator[World]:
    tag = secrets.token_hex(2)
    space, link, net = f"htw-{tag}", f"htw{tag}", f"100.127.{secrets.randbelow(256)}"
    sh(f"ip netns add {space}; ip link add {link} type veth peer name eth0 netns {space}")
    try:
        sh(f"ip addr add {net}.1/30 dev {link}; ip link set {link} up")
        sh(f"ip -n {space} addr add {net}.2/30 dev eth0; ip -n {space} link set eth0 up; ip -n {space} link set lo up")
        sh(f"ip -n {space} addr add {PUBLIC}/32 dev lo; ip -n {space} addr add {PRIVATE}/32 dev lo")
        sh(f"ip route add {PUBLIC}/32 via {net}.2; ip route add {PRIVATE}/32 via {net}.2")
        sh(f"ip -n {space} route add default via {net}.1")
        with listening(space, "stay") as port:
            yield World(space, link, f"{net}.1", f"{net}.2", port)
    finally:
        sh(f"ip link del {link}; ip netns del {space}")


@dataclass
class Node:
    """The network of one node, and its LLM gateway."""

    id: str
    port: int
    pool: LinuxSlotPool

    def again(self, ahead: int = 1) -> LinuxSlotPool:
        """The pool as the next daemon would make it."""
        return LinuxSlotPool(self.id, POOL, ahead, services(self.port))

    async def crash(self) -> None:
        """End all that the daemon does, and nothing that it has made."""
        assert self.pool._maker
        self.pool._maker.cancel()
        await asyncio.gather(self.pool._maker, *self.pool._making, return_exceptions=True)

    def has(self, slot: Slot) -> bool:
        state = look(self.id)
        return slot.namespace in state.namespaces and slot.link in state.links


def services(port: int) -> Services:
    """Of a node whose LLM gateway has this port, and which has no fence."""
    return Services(llm=port, identity=4, tcp=2, dns=3, uid=61184, broker=61185, resolver=None)


def node_id() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    id = node_id()
    with listening(None) as port:
        node = Node(id, port, LinuxSlotPool(id, POOL, 1, services(port)))
        await node.pool.start({})
        try:
            yield node
        finally:
            await node.pool.remove_all()
            assert_clean(id)


async def test_deny_all_reaches_the_llm_gateway_and_nothing_else(node: Node, world: World) -> None:
    slot = await node.pool.acquire("sbx_a", DenyAll())
    with listening(None) as other:
        start = time.monotonic()
        assert await connect(slot.namespace, LLM_ADDRESS, 80) == f"said {slot.guest_address}"
        for address, port in (
            (PUBLIC, world.port),
            (PRIVATE, world.port),
            (METADATA, 80),
            (LLM_ADDRESS, 443),
            (LLM_ADDRESS, node.port),
            (slot.host_address, other),
            (slot.host_address, node.port),  # the gateway itself is there only under its own address
            (world.host, other),
        ):
            assert await connect(slot.namespace, address, port) == "refused", f"{address}:{port}"
        assert time.monotonic() - start < 9 * BLOCKED_SOON


async def test_allow_all_reaches_the_internet_but_nothing_private(node: Node, world: World) -> None:
    slot = await node.pool.acquire("sbx_a", AllowAll())
    with listening(None) as other:
        assert await connect(slot.namespace, LLM_ADDRESS, 80) == f"said {slot.guest_address}"
        assert await connect(slot.namespace, PUBLIC, world.port) == f"said {world.host}"  # masqueraded
        for address, port in (
            (PRIVATE, world.port),
            (world.address, world.port),
            (METADATA, 80),
            (slot.host_address, other),
            (world.host, other),
            (world.host, node.port),
        ):
            assert await connect(slot.namespace, address, port) == "refused", f"{address}:{port}"


NAME_SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    asked, guest = server.recvfrom(512)
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton(sys.argv[1])
    server.sendto(asked[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + asked[12:] + answer, guest)
"""

ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.settimeout(10)
    sender.connect((sys.argv[1], 53))
    sender.send(b"\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4good\\4test\\0\\0\\1\\0\\1")
    sender.recv(512)
"""


@pytest.fixture
def outer_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's name server is in the world: for whoever is made after this."""
    monkeypatch.setattr(firewall, "host_resolver", lambda: PUBLIC)


async def test_what_an_open_guest_was_told_of_a_name_is_told(outer_resolver: None, node: Node, world: World) -> None:
    told: list[Packet] = []
    packets = PacketLog(group_of(node.id), told.append)
    packets.start()
    slot = await node.pool.acquire("sbx_a", AllowAll())
    command = inside(world.namespace, NAME_SERVER, PUBLIC)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            await asyncio.to_thread(subprocess.check_call, inside(slot.namespace, ASK, LLM_ADDRESS))
            async with asyncio.timeout(10):
                while not told:
                    await asyncio.sleep(0.02)
        finally:
            server.kill()
            packets.stop()
    (answer,) = told
    assert (answer.mark, answer.target) == (firewall.ANSWER, slot.guest_address)
    assert parse_told(answer.data) == ("good.test", [PUBLIC])


SEGMENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
    print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""


async def test_packets_are_large_up_to_the_host_and_no_larger_than_their_way_beyond_it(
    node: Node, world: World
) -> None:
    slot = await node.pool.acquire("sbx_a", AllowAll())
    sh(f"ip -n {world.namespace} link set eth0 mtu 9000")  # it would take more than the way to it
    for address, port, largest in ((PUBLIC, world.port, range(1000, 1461)), (LLM_ADDRESS, 80, range(30_000, 65_500))):
        command = inside(slot.namespace, SEGMENT, address, str(port))
        assert int(await asyncio.to_thread(subprocess.check_output, command)) in largest


UDP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.settimeout(2)
    sender.connect((sys.argv[1], 53))
    try:
        sender.send(b"x"); sender.recv(10)
    except TimeoutError: print("silence")
    except OSError as error: print("refused")
"""


async def test_other_protocols_are_refused_at_once(node: Node, world: World) -> None:
    slot = await node.pool.acquire("sbx_a", DenyAll())
    for address in (PUBLIC, LLM_ADDRESS, slot.host_address):
        output = await asyncio.to_thread(subprocess.check_output, inside(slot.namespace, UDP, address), text=True)
        assert output == "refused\n", address


@pytest.mark.parametrize("policy", [DenyAll(), AllowAll()], ids=lambda policy: policy.mode)
async def test_sandboxes_do_not_reach_each_other(node: Node, policy: DenyAll | AllowAll) -> None:
    one, two = await asyncio.gather(*(node.pool.acquire(f"sbx_{n}", policy) for n in range(2)))
    with listening(two.namespace) as port:
        assert await connect(one.namespace, two.guest_address, port) == "refused"
        assert await connect(one.namespace, two.host_address, port) == "refused"


async def test_the_node_reaches_a_guest_and_neither_other_users_of_the_host_nor_the_outside(
    node: Node, world: World
) -> None:
    slot = await node.pool.acquire("sbx_a", AllowAll())
    with listening(slot.namespace) as port:
        with await asyncio.to_thread(socket.create_connection, (slot.guest_address, port), 5) as connection:
            assert await asyncio.to_thread(connection.recv, 100) == slot.host_address.encode()
        with listening(slot.namespace, "stay") as talking:
            command = [sys.executable, "-I", "-S", "-c", AS_SOMEBODY, slot.guest_address, str(talking)]
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            output, _ = await process.communicate()
            # What root has opened goes on in whose hands ever it is. Who opens one of his own is refused.
            assert output.decode().split() == [slot.host_address, "error", str(errno.EHOSTUNREACH)]
        assert await connect(world.namespace, slot.guest_address, port) == "silence"
        with socket_of(node.pool.dialer, socket.SOCK_STREAM) as handed:
            await asyncio.to_thread(handed.connect, (slot.guest_address, port))
            ctypes.CDLL(None).connect(handed.fileno(), bytes(16), 16)  # AF_UNSPEC: it is as new
            for elsewhere in (("127.0.0.1", node.port), (PUBLIC, world.port)):
                with pytest.raises(OSError) as refused:
                    await asyncio.to_thread(handed.connect, elsewhere)
                assert refused.value.errno == errno.EHOSTUNREACH


async def test_the_gateway_is_not_there_for_the_outside(node: Node, world: World) -> None:
    assert await connect(world.namespace, world.host, node.port) == "silence"
    with listening(None) as other:
        assert await connect(world.namespace, world.host, other) == f"said {world.address}"


async def test_a_forged_source_is_dropped(node: Node, world: World) -> None:
    one, two = await asyncio.gather(*(node.pool.acquire(f"sbx_{n}", AllowAll()) for n in range(2)))
    sources, places = (two.guest_address, world.address, "8.8.8.8"), ((LLM_ADDRESS, 80), (PUBLIC, world.port))
    for source in sources:
        sh(f"ip -n {one.namespace} addr add {source}/32 dev eth0")
    tried = [(source, *place) for source in sources for place in places]
    came = await asyncio.gather(*(connect(one.namespace, to, port, source=source) for source, to, port in tried))
    for said, attempt in zip(came, tried, strict=True):
        assert said in ("silence", "error 113"), attempt  # 113: the host does not even answer ARP


CLOUDS = (METADATA, "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "100.64.0.1", "0.0.0.0")


async def test_no_clouds_metadata_is_reached_with_an_open_network(node: Node) -> None:
    slots = await asyncio.gather(
        node.pool.acquire("sbx_a", AllowAll()), node.pool.acquire("sbx_b", NetworkRules(public=True))
    )
    for slot in slots:
        # 0.0.0.0 is the sandbox itself
        came = await asyncio.gather(*(connect(slot.namespace, address, 80) for address in CLOUDS))
        assert came == ["refused"] * len(CLOUDS)
        six = await asyncio.gather(*(connect(slot.namespace, f"{a}", 80, source="::") for a in ("fd00:ec2::254",)))
        assert six == ["error 101"] or six == ["error 99"]  # no network, no address of the family


ANNOUNCE = """
import socket, sys
own, taken = sys.argv[1:]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
    sender.bind(("eth0", 0x0806))
    mac = sender.getsockname()[4]
    for kind in (1, 2):
        for target in (own, taken):
            told = b"\\0\\1\\x08\\0\\6\\4\\0" + bytes([kind]) + mac + socket.inet_aton(taken)
            sender.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + told + bytes(6) + socket.inet_aton(target))
"""


async def test_who_announces_an_address_of_another_gets_nothing_of_it(node: Node, world: World) -> None:
    one, two = await asyncio.gather(*(node.pool.acquire(f"sbx_{n}", AllowAll()) for n in range(2)))
    with listening(one.namespace) as wrong, listening(two.namespace) as port:
        for taken in (two.guest_address, two.host_address, one.host_address, LLM_ADDRESS, PUBLIC):
            sh(f"ip -n {one.namespace} addr add {taken}/32 dev lo")
            subprocess.run(inside(one.namespace, ANNOUNCE, one.host_address, taken), check=True)
        with await asyncio.to_thread(socket.create_connection, (two.guest_address, port), 5) as connection:
            assert await asyncio.to_thread(connection.recv, 100) == two.host_address.encode()
        with pytest.raises(OSError):
            await asyncio.to_thread(socket.create_connection, (two.guest_address, wrong), 2)
        assert await connect(two.namespace, PUBLIC, world.port) == f"said {world.host}"


FRAGMENTS = """
import socket, struct, sys
source, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
def sum16(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
addresses = socket.inet_aton(source) + socket.inet_aton(target)
def syn(number, to):
    tcp = struct.pack(">HHIIBBHHH", number, to, 7, 0, 5 << 4, 2, 4096, 0, 0) + bytes(12)
    tcp = tcp[:12] + bytes([8 << 4]) + tcp[13:]
    return tcp[:16] + struct.pack(">H", sum16(addresses + struct.pack(">HH", 6, len(tcp)) + tcp)) + tcp[18:]
def send(sender, id, more, offset, data):
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), id, more << 13 | offset // 8, 64, 6, 0) + addresses
    sender.sendto(head + data, (target, 0))
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
    for id, (first, second) in enumerate([(port, port), (9, port)], 100):  # in two; the second one overlaps the port
        whole, other = syn(30000 + id, first), syn(30000 + id, second)
        again = 16 if first == second else 0
        send(sender, id, 1, 0, whole[:16])
        send(sender, id, 0, again, other[again:])
        send(sender, id + 50, 1, 0, whole[:8])
        send(sender, id + 50, 0, 8, other[8:])
"""
SNIFF = """
import socket, sys, time
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sniffer:
    sniffer.settimeout(0.2)
    print("ready", flush=True)
    sys.stdin.readline()
    seen = set()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        try: packet, place = sniffer.recvfrom(2000)
        except TimeoutError: continue
        if place[2] != 4 and packet[9] == 6 and packet[16:20] == socket.inet_aton(sys.argv[1]):
            seen.add(int.from_bytes(packet[22:24], "big") if not int.from_bytes(packet[6:8], "big") & 0x1FFF else -1)
    print(sorted(seen))
"""


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "one port open"])
async def test_a_connection_in_fragments_is_judged_as_a_whole(node: Node, world: World, opened: bool) -> None:
    rules = NetworkRules(allow=[f"{PUBLIC}:{world.port}"]) if opened else DenyAll()
    slot = await node.pool.acquire("sbx_a", rules)
    other = world.port ^ 1  # which is not open
    sniffer = subprocess.Popen(
        inside(world.namespace, SNIFF, PUBLIC), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with sniffer:
        assert sniffer.stdout is not None and sniffer.stdout.readline() == "ready\n"
        for port in (other, world.port) if opened else (world.port,):
            command = inside(slot.namespace, FRAGMENTS, slot.guest_address, PUBLIC, str(port))
            await asyncio.to_thread(subprocess.run, command, check=True)
        said, _ = await asyncio.to_thread(sniffer.communicate, "\n")
    # -1: a piece behind the first; the kernel sends what it has judged in pieces as they came
    assert said == (f"[-1, {world.port}]\n" if opened else "[]\n")


async def test_new_connections_to_the_doors_of_the_node_are_bounded(node: Node) -> None:
    one, two = await asyncio.gather(*(node.pool.acquire(f"sbx_{n}", DenyAll()) for n in range(2)))
    flood = """
import socket, sys
refused = 0
for _ in range(int(sys.argv[2])):
    try: socket.create_connection((sys.argv[1], 80), 5).close()
    except ConnectionRefusedError: refused += 1
    except ConnectionResetError: pass
print(refused)
"""
    command = inside(one.namespace, flood, LLM_ADDRESS, "1500")
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    assert int(said) > 0
    assert (await connect(two.namespace, LLM_ADDRESS, 80)).startswith("said")


async def test_a_slot_that_is_not_lent_reaches_nothing(node: Node) -> None:
    while not node.pool.free:
        await asyncio.sleep(0.01)
    free = node.pool.slot(0)
    assert node.has(free)
    assert await connect(free.namespace, LLM_ADDRESS, 80) == "silence"


async def test_there_is_no_ipv6(node: Node) -> None:
    slot = await node.pool.acquire("sbx_a", AllowAll())
    listed = subprocess.check_output(["ip", "-6", "-n", slot.namespace, "addr", "show", "dev", "eth0"], text=True)
    assert "inet6" not in listed
    assert "inet6" not in subprocess.check_output(["ip", "-6", "addr", "show", "dev", slot.link], text=True)


async def test_a_policy_changes_at_once_and_for_open_connections_too(node: Node, world: World) -> None:
    slot = await node.pool.acquire("sbx_a", DenyAll())
    assert await connect(slot.namespace, PUBLIC, world.port) == "refused"
    await node.pool.set_policy(slot, AllowAll())
    assert await connect(slot.namespace, PUBLIC, world.port) == f"said {world.host}"
    talk = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
connection.recv(100); print("open", flush=True); sys.stdin.readline()
for _ in range(5):
    try: connection.send(b"x")
    except OSError as error: print(type(error).__name__, flush=True); break
    time.sleep(0.2)
else: print("still open", flush=True)
"""
    command = inside(slot.namespace, talk, PUBLIC, str(world.port))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        assert await asyncio.to_thread(process.stdout.readline) == "open\n"
        await node.pool.set_policy(slot, DenyAll())
        process.stdin.write("\n")
        process.stdin.flush()
        said = await asyncio.to_thread(process.stdout.readline)
    assert said in ("ConnectionResetError\n", "BrokenPipeError\n")
    assert await connect(slot.namespace, PUBLIC, world.port) == "refused"
    assert await connect(slot.namespace, LLM_ADDRESS, 80) == f"said {slot.guest_address}"


async def test_rules_about_addresses_open_none_of_the_hosts_own(node: Node, world: World) -> None:
    own = f"25.25.{RUN}.77"  # a host with a public address
    sh(f"ip addr add {own}/32 dev {world.link}")
    slot = await node.pool.acquire("sbx_a", NetworkRules(allow=[f"25.25.{RUN}.0/24", own, f"{own}:1-65535"]))
    assert await connect(slot.namespace, PUBLIC, world.port) == f"said {world.host}"
    with listening(None) as port:
        assert await connect(slot.namespace, own, port) == "refused"


async def test_a_private_network_that_the_operator_allows_is_reached_by_rules_about_it_alone(
    node: Node, world: World
) -> None:
    wide = NetworkRules(allow=[f"10.97.{RUN}.0/24", "10.96.0.0/15"], public=True)
    slot = await node.pool.acquire("sbx_a", wide)
    assert await connect(slot.namespace, PRIVATE, world.port) == "refused"  # this node allows none
    own, outside = f"10.97.{RUN}.77", f"10.96.{RUN}.25"
    sh(f"ip addr add {own}/32 dev {world.link}; ip route add {outside}/32 via {world.address}")
    sh(f"ip -n {world.namespace} addr add {outside}/32 dev lo")
    other = LinuxSlotPool(node_id(), POOL, 0, services(node.port), "10.97.0.0/16")
    await other.start({})
    try:
        slot = await other.acquire("sbx_b", wide)
        neighbour = await other.acquire("sbx_c", wide)
        assert await connect(slot.namespace, PRIVATE, world.port) == f"said {world.host}"
        with listening(None) as port:
            for address, to in (
                (own, port),  # the host's own, in the same network
                (outside, world.port),
                (world.address, world.port),
                (world.host, port),
                (METADATA, 80),
                (slot.host_address, port),
                (neighbour.guest_address, 49983),
                ((await node.pool.acquire("sbx_d", AllowAll())).guest_address, 49983),
            ):
                assert await connect(slot.namespace, address, to) == "refused", address
        for policy in (AllowAll(), NetworkRules(public=True), NetworkRules(allow=[f"{PRIVATE}:1"])):
            await other.set_policy(slot, policy)
            assert await connect(slot.namespace, PRIVATE, world.port) == "refused"
    finally:
        await other.remove_all()


async def test_the_next_guest_of_an_address_has_none_of_the_connections_of_the_last(node: Node, world: World) -> None:
    slot = await node.pool.acquire("sbx_a", AllowAll())
    talk = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
connection.recv(9); print("open", flush=True); sys.stdin.read()
"""
    command = inside(slot.namespace, talk, PUBLIC, str(world.port))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert await asyncio.to_thread(process.stdout.readline) == "open\n"
        assert any(each.open(slot.guest_address) for each in connections_of(slot.guest_address))
        await node.pool.release(slot)  # with the link goes every way to say goodbye
        assert connections_of(slot.guest_address) == []
        process.kill()


async def test_release_destroys_and_a_second_one_does_nothing(node: Node) -> None:
    slot = await node.pool.acquire("sbx_a", AllowAll())
    assert node.has(slot)
    await asyncio.gather(node.pool.release(slot), node.pool.release(slot))
    state = look(node.id)
    assert slot.namespace not in state.namespaces
    assert slot.link not in state.links
    rules = subprocess.check_output(["nft", "list", "table", "inet", f"hutch_{node.id}"], text=True)
    assert slot.guest_address not in rules
    await node.pool.release(slot)
    assert (await node.pool.acquire("sbx_b", DenyAll())).index != slot.index


async def test_the_next_daemon_takes_over_what_is_lent_and_removes_the_rest(node: Node, world: World) -> None:
    kept = await node.pool.acquire("sbx_a", AllowAll())
    lost = await node.pool.acquire("sbx_b", DenyAll())
    await node.crash()
    later = node.again(ahead=0)
    try:
        await later.start({"sbx_a": kept.index})
        assert later.slot(kept.index) == kept
        assert node.has(kept)
        assert not node.has(lost)
        assert len(look(node.id).namespaces) == 1
        # The policy of before is in force without being set again.
        assert await connect(kept.namespace, PUBLIC, world.port) == f"said {world.host}"
        await later.set_policy(kept, DenyAll())
        assert await connect(kept.namespace, PUBLIC, world.port) == "refused"
        assert (await later.acquire("sbx_c", DenyAll())).index not in (kept.index, lost.index)
    finally:
        await later.remove_all()


async def test_stop_leaves_what_is_lent(node: Node) -> None:
    slot = await node.pool.acquire("sbx_a", DenyAll())
    await node.pool.stop()
    assert look(node.id).namespaces == {slot.namespace}
    assert await connect(slot.namespace, LLM_ADDRESS, 80) == f"said {slot.guest_address}"


async def test_many_at_once_are_all_different(node: Node) -> None:
    slots = await asyncio.gather(*(node.pool.acquire(f"sbx_{n}", DenyAll()) for n in range(12)))
    assert len({slot.index for slot in slots}) == len({slot.guest_address for slot in slots}) == 12
    assert all(node.has(slot) for slot in slots)
    await asyncio.gather(*(node.pool.release(slot) for slot in slots))


async def test_an_acquire_that_is_cancelled_loses_no_slot(node: Node) -> None:
    for delay in (0, 0.002, 0.01, 0.02, 0.04):
        task = asyncio.create_task(node.pool.acquire("sbx_a", DenyAll()))
        await asyncio.sleep(delay)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Slot):
            await node.pool.release(result)
    await node.pool.stop()
    assert look(node.id).namespaces == frozenset()
    assert look(node.id).links == frozenset()


async def test_nodes_of_one_host_have_subnets_of_their_own(node: Node) -> None:
    other = LinuxSlotPool(node_id(), POOL, 0, services(1))
    await other.start({})
    try:
        one, two = await node.pool.acquire("sbx_a", DenyAll()), await other.acquire("sbx_b", DenyAll())
        assert one.guest_address != two.guest_address
        assert await connect(two.namespace, one.guest_address, 49983) == "refused"
    finally:
        await other.remove_all()


async def test_a_node_that_has_no_slots_left_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subnets, "CLAIMS", tmp_path / "claims.json")
    id = node_id()
    pool = LinuxSlotPool(id, "10.197.0.0/29", 0, services(1))
    await pool.start({})
    try:
        slots = [await pool.acquire(f"sbx_{n}", DenyAll()) for n in range(2)]
        with pytest.raises(LimitReached, match="slots"):
            await pool.acquire("sbx_c", DenyAll())
        await pool.release(slots[0])
        assert (await pool.acquire("sbx_c", DenyAll())).index == 0
    finally:
        await pool.remove_all()
        assert_clean(id)
