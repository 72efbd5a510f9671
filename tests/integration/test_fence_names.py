"""The fence against clients in a real sandbox: names, addresses, and what is said on connections."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fence.sniffer import sniffing
from tests.fence.world import EVIL, GOOD, METADATA, OTHER_RESOLVER, PRIVATE, RESOLVER, SHARED, World, a_world

from hutch.egress.unprivileged import socket_of

pytestmark = pytest.mark.root

ALLOW = [
    "good.test",
    "api.good.test",
    "*.wild.test",
    "*.silent.test",
    "inside.test",
    "meta.test",
    "mixed.test",
    "brief.test:80",
]


@pytest.fixture(scope="module")
def world(standard_template: str) -> Iterator[World]:
    with a_world() as made:
        yield made


@pytest.fixture(scope="module")
def box(world: World) -> dict[str, Any]:
    return world.sandbox(*ALLOW, "db.test:5432,8443")


def lookup(name: str) -> dict[str, Any]:
    return {"do": "lookup", "name": name}


def tls(address: str, sni: str | None, port: int = 443, **more: Any) -> dict[str, Any]:
    return {"do": "tls", "to": [address, port], "sni": sni, **more}


def http(address: str, *hosts: str, port: int = 80) -> dict[str, Any]:
    parts = [f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n" for host in hosts]
    return {"do": "tcp", "to": [address, port], "parts": parts}


def test_an_allowed_name_is_reached_and_nothing_else(world: World, box: dict[str, Any]) -> None:
    came = world.timed(
        box,
        tls(GOOD, "good.test"),  # not asked for yet: its address means nothing
        lookup("good.test"),
        tls(GOOD, "good.test"),
        http(GOOD, "good.test"),
        lookup("evil.test"),
        tls(EVIL, "evil.test"),
        tls(EVIL, "good.test"),
        tls(GOOD, "evil.test"),
        tls(GOOD, None),
        http(GOOD, "evil.test"),
        {"do": "tcp", "to": [GOOD, 22]},
    )
    results = [result for result, _ in came]
    assert results[0] == "refused"
    assert results[1] == [GOOD]
    assert results[2]["sni"] == "good.test"
    assert '"host": "good.test"' in results[3][0]
    assert results[4] == "gaierror -2"
    assert results[5] == results[6] == "refused"
    assert results[7] == results[8] == "reset"
    assert results[9] == "reset"
    assert results[10] == "refused"
    assert sorted(took for _, took in came)[len(came) // 2] < 2000


def test_only_allowed_names_go_to_a_name_server(world: World, box: dict[str, Any]) -> None:
    since = world.internet.mark()
    long = "x" * 40
    came = world.run(
        box,
        lookup("evil.test"),
        lookup("sub.good.test"),  # a name allows itself only
        lookup("wild.test"),  # and a wildcard does not
        {"do": "dns", "name": f"{long}.{long}.evil.test"},
        {"do": "dns", "name": "good.test", "type": 28},
        {"do": "dns", "name": "good.test", "type": 65},  # would bring the keys for an encrypted hello
        {"do": "dns", "name": "good.test", "type": 16},
        {"do": "dns", "name": f"{long}.{long}.wild.test"},
        {"do": "dns", "name": "a.b.c.d.e.wild.test"},
        {"do": "dns", "name": "GOOD.test", "tcp": True},
        {"do": "dns", "name": "good.test", "server": RESOLVER},
        {"do": "dns", "name": "good.test", "server": RESOLVER, "tcp": True},
        {"do": "tcp", "to": [RESOLVER, 853]},
        {"do": "tls", "to": [RESOLVER, 443], "sni": "dns.test"},
    )
    assert came[:3] == ["gaierror -2"] * 3
    assert came[3]["code"] == 3
    assert [(each["code"], each["answers"]) for each in came[4:7]] == [(0, 0)] * 3
    assert came[7]["code"] == came[8]["code"] == 3
    assert came[9]["answers"] == 1
    assert came[10:14] == ["refused"] * 4
    assert set(world.internet.asked(since)) == {"good.test"}


def test_name_servers_of_the_policys_own(world: World) -> None:
    """The first of them does not answer."""
    allow = ["good.test", "inside.test", f"{RESOLVER}:443"]
    box = world.sandbox(*allow, name_servers=[EVIL, OTHER_RESOLVER])
    since = world.internet.mark()
    question = {"do": "dns", "name": "good.test", "server": OTHER_RESOLVER}
    came = world.run(
        box,
        lookup("good.test"),
        tls(SHARED, "good.test"),
        tls(GOOD, "good.test"),  # what the node's own would have said
        question,
        question | {"tcp": True},
        question | {"name": "evil.test"},
        question | {"name": "evil.test", "tcp": True},
        question | {"server": RESOLVER},
        {"do": "tcp", "to": [OTHER_RESOLVER, 443]},  # questions, and nothing else
        {"do": "tcp", "to": [OTHER_RESOLVER, 80]},
    )
    assert came[0] == [SHARED]
    assert came[1]["sni"] == "good.test"
    assert came[2] == "refused"
    assert [(each["code"], each["answers"]) for each in came[3:7]] == [(0, 1), (0, 1), (3, 0), (3, 0)]
    assert came[7:] == ["refused"] * 3
    assert set(world.internet.asked(since, elsewhere=True)) == {"good.test"} and not world.internet.asked(since)
    world.policy(box, *allow)
    assert world.run(box, lookup("good.test"), question) == [[GOOD], "refused"]
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_tunnel_of_names_below_a_wildcard_runs_dry(world: World) -> None:
    box = world.sandbox("*.wild.test")
    since = world.internet.mark()
    code = """
import socket
found = 0
for n in range(300):
    try: socket.gethostbyname(f"{n:08x}.wild.test"); found += 1
    except OSError: pass
result = found
"""
    (found,) = world.run(box, {"do": "python", "code": code})
    assert 60 <= found < 120
    assert len(set(world.internet.asked(since))) == found
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_name_with_a_private_address_is_not_told(world: World, box: dict[str, Any]) -> None:
    came = world.run(
        box,
        lookup("inside.test"),
        lookup("meta.test"),
        lookup("mixed.test"),
        tls(PRIVATE, "inside.test"),
        http(METADATA, "meta.test"),
        tls(GOOD, "mixed.test"),
    )
    assert came[:3] == ["gaierror -2", "gaierror -2", [GOOD]]
    assert came[3:5] == ["refused", "refused"]
    assert came[5]["sni"] == "mixed.test"


def test_rebinding_and_stale_addresses(world: World, box: dict[str, Any]) -> None:
    from tests.fence.world import RECORDS

    assert world.run(box, lookup("brief.test"), http(GOOD, "brief.test"))[0] == [GOOD]
    world.internet.resolve(RECORDS | {"brief.test": {"addresses": [PRIVATE], "ttl": 1}})
    try:
        came = world.run(box, lookup("brief.test"), http(PRIVATE, "brief.test"))
        assert came == ["gaierror -2", "refused"]
        world.internet.resolve(RECORDS | {"brief.test": {"addresses": [EVIL], "ttl": 1}})
        came = world.run(box, lookup("brief.test"), http(EVIL, "brief.test"))
        assert came[0] == [EVIL]
        assert '"host": "brief.test"' in came[1][0]
    finally:
        world.internet.resolve(RECORDS)
    # Nobody asks for it any more: its last address counts for the floor and the grace, 17 seconds, and no longer.
    wait = "import time; time.sleep(18.5)"
    came = world.run(box, {"do": "python", "code": wait}, http(EVIL, "brief.test"))
    assert came[1] == "refused"


def test_an_address_that_allowed_and_forbidden_names_share(world: World, box: dict[str, Any]) -> None:
    came = world.run(
        box,
        lookup("api.good.test"),
        tls(SHARED, "api.good.test"),
        tls(SHARED, "other.test"),
        tls(SHARED, "good.test"),  # allowed, and never had this address
        http(SHARED, "other.test"),
        http(SHARED, "good.test"),
    )
    assert came[1]["sni"] == "api.good.test"
    assert came[2:] == ["reset"] * 4


def test_every_request_of_a_connection_is_judged(world: World, box: dict[str, Any]) -> None:
    since = world.internet.mark()
    post = "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhello"
    hidden = "GET /hidden HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    shapes = {
        "another host": ["GET / HTTP/1.1\r\nHost: good.test\r\n\r\n", hidden],
        "pipelined": ["GET / HTTP/1.1\r\nHost: good.test\r\n\r\n" + hidden],
        "after a body": [post + hidden],
        "two hosts": ["GET /hidden HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n"],
        "a host in the target": ["GET http://evil.test/hidden HTTP/1.1\r\nHost: good.test\r\n\r\n"],
        "no host": ["GET /hidden HTTP/1.0\r\n\r\n"],
        "connect": ["CONNECT good.test:443 HTTP/1.1\r\nHost: good.test\r\n\r\n"],
        "smuggled": [
            "POST /hidden HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\n"
        ],
        "folded": ["GET /hidden HTTP/1.1\r\nHost: good.test\r\n x: y\r\n\r\n"],
        "bare line feeds": ["GET /hidden HTTP/1.1\nHost: good.test\n\n" + " " * 40000],
        "http/2": ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        "h2c": [
            "GET /hidden HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        ],
        "a websocket that is none": [
            "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: x\r\n\r\n",
            hidden,
        ],
        "another port": ["GET /hidden HTTP/1.1\r\nHost: good.test:8080\r\n\r\n"],
        "a host of numbers": ["GET /hidden HTTP/1.1\r\nHost: 420025610\r\n\r\n"],
        "a huge head": ["GET /hidden HTTP/1.1\r\nHost: good.test\r\n" + "X: " + "y" * 40000 + "\r\n\r\n"],
    }
    steps = [{"do": "tcp", "to": [GOOD, 80], "parts": parts} for parts in shapes.values()]
    came = world.run(box, lookup("good.test"), *steps)[1:]
    assert dict(zip(shapes, came, strict=True)) == dict.fromkeys(shapes, "reset")
    assert "/hidden" not in [request["path"] for request in world.internet.requests(since)]
    keep = ["GET /a HTTP/1.1\r\nHost: good.test\r\n\r\n", post, "GET /b HTTP/1.1\r\nHost: good.test:80\r\n\r\n"]
    (kept,) = world.run(box, {"do": "tcp", "to": [GOOD, 80], "parts": keep})
    assert [part[:12] for part in kept] == ["HTTP/1.1 200"] * 3


def test_a_websocket_passes(world: World, box: dict[str, Any]) -> None:
    upgrade = "GET /ws HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    upgrade += "Sec-WebSocket-Key: x\r\n\r\n"
    code = f"""
import socket
with socket.create_connection(({GOOD!r}, 80), 5) as connection:
    connection.sendall({upgrade!r}.encode() + b"early")
    head = b""
    while not head.endswith(b"early"): head += connection.recv(1000)
    connection.sendall(b"frames")
    result = [head.decode(), connection.recv(100).decode()]
"""
    _, (head, echoed) = world.run(box, lookup("good.test"), {"do": "python", "code": code})
    assert head.startswith("HTTP/1.1 101")
    assert echoed == "frames"


HELLO = """
import socket, ssl
def hello(name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    try: context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError: pass
    return out.read()
def extended(record, extension):
    body = record[9:]
    at = 34; at += 1 + body[at]; at += 2 + int.from_bytes(body[at:at+2], "big"); at += 1 + body[at]
    total = int.from_bytes(body[at:at+2], "big") + len(extension)
    body = body[:at] + total.to_bytes(2, "big") + body[at+2:] + extension
    return b"\\x16\\x03\\x01" + (len(body) + 4).to_bytes(2, "big") + b"\\x01" + len(body).to_bytes(3, "big") + body
def came(*parts):
    with socket.create_connection((GOOD, 443), 5) as connection:
        connection.settimeout(5)
        try:
            for part in parts: connection.sendall(part)
            return "answered" if connection.recv(1000) else "closed"
        except ConnectionError: return "reset"
good = hello("good.test")
""".replace("GOOD", repr(GOOD))


def test_hellos_that_cannot_be_judged_are_reset(world: World, box: dict[str, Any]) -> None:
    code = (
        HELLO
        + """
split = [b"\\x16\\x03\\x01" + len(part).to_bytes(2, "big") + part for part in (good[5:60], good[60:])]
result = {
    "good": came(good),
    "in pieces": came(good[:3], good[3:50], good[50:]),
    "in records": came(*split),
    "ech": came(extended(good, b"\\xfe\\x0d\\x00\\x04\\x00\\x00\\x00\\x00")),
    "esni": came(extended(good, b"\\xff\\xce\\x00\\x00")),
    "two names": came(extended(good, b"\\x00\\x00\\x00\\x0b\\x00\\x09\\x00\\x00\\x06x.test")),
    "another hello behind": came(good + hello("evil.test")),
    "no tls": came(b"SSH-2.0-x\\r\\n"),
    "http": came(b"GET / HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n"),
    "an address": came(extended(hello(None), b"\\x00\\x00\\x00\\x10\\x00\\x0e\\x00\\x00\\x0b25.25.25.10")),
    "huge": came(b"\\x16\\x03\\x01\\x40\\x00\\x01\\xff\\xff\\xff" + bytes(16380)),
}
"""
    )
    _, came = world.run(box, lookup("good.test"), {"do": "python", "code": code})
    assert {name for name, result in came.items() if result == "answered"} == {"good", "in pieces", "in records"}
    assert {result for name, result in came.items() if name not in ("good", "in pieces", "in records")} == {"reset"}


def test_ports_of_a_rules_own(world: World, box: dict[str, Any]) -> None:
    came = world.run(
        box,
        lookup("db.test"),
        {"do": "tcp", "to": [GOOD, 5432], "first": True, "parts": ["\x00\x01binary"]},
        tls(GOOD, "db.test", 8443),
        tls(GOOD, "good.test", 8443),
        http(GOOD, "db.test", port=8080),
        http(GOOD, "evil.test", port=5432),
    )
    assert came[1] == ["hello\n", "\x00\x01binary"]
    assert came[2]["sni"] == "db.test"
    assert came[3] == "reset"
    assert came[4] == "refused"
    assert came[5][0] in ("hello\n",) or came[5] == "reset"
    assert not any("evil.test" in str(part) for part in came[5])


def test_other_protocols_and_forms_of_addresses(world: World, box: dict[str, Any]) -> None:
    parts = [int(part) for part in EVIL.split(".")]
    number = int.from_bytes(bytes(parts), "big")
    octal = ".".join(f"0{part:o}" for part in parts)
    six = f"{number >> 16:x}:{number & 0xFFFF:x}"
    forms = [str(number), hex(number), octal, f"::ffff:{EVIL}", f"2002:{six}::1", f"64:ff9b::{six}"]
    code = (
        f"FORMS = {forms}"
        + """
import socket
def came(target):
    try: socket.create_connection(target, 3).close(); return "open"
    except OSError as error: return type(error).__name__ + " " + str(error.errno)
def raw(kind):
    try: socket.socket(*kind).close(); return "made"
    except OSError as error: return "not made"
result = {
    "forms": [came((host, 80)) for host in FORMS],
    "raw": [raw(kind) for kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW, 1))],
}
"""
    )
    udp, quic, first, rest = world.run(
        box,
        {"do": "udp", "to": [GOOD, 9999]},
        {"do": "udp", "to": [GOOD, 443]},
        {"do": "tcp", "to": [METADATA, 80]},
        {"do": "python", "code": code},
    )
    assert udp == quic == first == "refused"
    assert "open" not in rest["forms"]
    assert all(form.split()[-1] in ("111", "101", "97", "99", "-2", "-9", "113") for form in rest["forms"]), rest


def test_the_node_and_other_sandboxes_are_not_there(world: World, box: dict[str, Any]) -> None:
    other = world.sandbox("good.test")
    host = box["address"].rpartition(".")[0] + "." + str(int(box["address"].rpartition(".")[2]) - 1)
    code = f"""
import socket
open_ports = []
for host in ({host!r}, "169.254.169.253", {world.internet.host!r}):
    for port in (22, 53, 80, 443, 8700, 8701, {", ".join(map(str, range(20000, 20020)))}):
        try:
            socket.create_connection((host, port), 3).close()
            open_ports.append([host, port])
        except ConnectionRefusedError: pass
result = open_ports
"""
    found, guest = world.run(box, {"do": "python", "code": code}, {"do": "tcp", "to": [other["address"], 49983]})
    assert found == [["169.254.169.253", 53], ["169.254.169.253", 80]]  # names and the LLM gateway
    assert guest == "refused"
    world.node.call("DELETE", f"/sandboxes/{other['id']}")


def test_the_fence_has_no_privileges_and_the_kernel_holds_it_to_public_addresses(
    world: World, box: dict[str, Any]
) -> None:
    world.run(box, lookup("good.test"))
    status = Path(f"/proc/{world.fence()}/status").read_text()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    uid = int(fields["Uid"][0])
    assert 61184 <= uid < 64496
    assert set(fields["Uid"]) == {str(uid)}
    assert [int(fields[name][0], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd")][:2] == [0, 0]
    assert fields["NoNewPrivs"] == ["1"]
    assert fields.get("Groups", []) == []
    environment = Path(f"/proc/{world.fence()}/environ").read_bytes()
    assert b"HUTCH_" not in environment  # nor what else the node was given
    assert b"HUTCH_" in Path(f"/proc/{world.node.pid}/environ").read_bytes()
    reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"
    for address, port, open_to_it in (
        (GOOD, 80, True),
        (PRIVATE, 80, False),
        (METADATA, 80, False),
        (world.internet.address, 80, False),
        (world.internet.host, 80, False),
        ("127.0.0.1", 80, False),
        (box["address"], 49983, False),
    ):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", reach, address, str(port)], user=uid, capture_output=True, text=True
        )
        assert (done.returncode == 0) is open_to_it, f"{address}: {done.stderr}"


def test_nor_do_the_sockets_lead_further_that_the_node_has_opened_for_it(world: World, box: dict[str, Any]) -> None:
    world.run(box, lookup("good.test"))
    uid = int(Path(f"/proc/{world.fence()}/status").read_text().partition("\nUid:")[2].split()[0])
    inherited = _sockets_of(world.fence())
    assert sorted(each.type for each in inherited) == [socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM]
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        udp.settimeout(1)
        for each in inherited:
            with contextlib.suppress(OSError):
                each.sendto(b"x", udp.getsockname())
            each.close()
        with pytest.raises(TimeoutError):
            udp.recv(1)
        with socket_of(uid, socket.SOCK_STREAM) as like_its_own, pytest.raises(OSError):
            like_its_own.settimeout(3)
            like_its_own.connect(tcp.getsockname())
        with socket_of(0, socket.SOCK_STREAM) as of_root:  # the server is there
            of_root.connect(tcp.getsockname())


def _sockets_of(pid: int) -> list[socket.socket]:
    """Its sockets of IPv4 that it was given, as it has them itself (`pidfd_getfd`)."""
    found, handle = [], os.pidfd_open(pid)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "socket:" in os.readlink(entry):
            copy = socket.socket(fileno=ctypes.CDLL(None).syscall(438, handle, int(entry.name), 0))
            if copy.family == socket.AF_INET:
                found.append(copy)
            else:
                copy.close()
    os.close(handle)
    return found


FLOOD = """
import os, socket, struct, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(("169.254.169.253", 53))
end = time.monotonic() + 6
while time.monotonic() < end:
    for zone in (b"evil", b"silent"):
        asked = bytes([30]) + os.urandom(15).hex().encode() + bytes([len(zone)]) + zone + bytes([4]) + b"test"
        asked += bytes([0, 0, 1, 0, 1])
        try: sender.send(struct.pack(">6H", 7, 256, 1, 0, 0, 0) + asked)
        except OSError: pass
"""


def test_a_flood_of_names_refused_or_never_answered_keeps_no_other_from_its_own(
    world: World, box: dict[str, Any]
) -> None:
    since, other = world.internet.mark(), world.sandbox("good.test")
    flood = world.node.start_process(box, f"python3 -c '{FLOOD}'")
    question = {"do": "dns", "name": "good.test", "wait": 15}
    came = world.run(other, *[question] * 20)
    assert [each["answers"] for each in came] == [1] * 20
    world.node.follow(box, flood)
    asked = set(world.internet.asked(since))
    assert "good.test" in asked
    assert not any(name.endswith(".evil.test") for name in asked)
    assert 1 < len(asked) <= 1 + 60 + 6, "as many names below a wildcard as it may ask for"
    resident = Path(f"/proc/{world.fence()}/status").read_text().partition("VmRSS:")[2].split()[0]
    assert int(resident) < 200_000
    world.node.call("DELETE", f"/sandboxes/{other['id']}")


def test_pings_and_unix_sockets_lead_nowhere(world: World, box: dict[str, Any]) -> None:
    code = f"""
import os, socket, stat
came = "no socket"
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as pinger:
        pinger.settimeout(2)
        pinger.sendto(b"\\x08\\0\\0\\0\\0\\1\\0\\1" + b"smuggled", ({GOOD!r}, 0))
        came = pinger.recv(100).hex()
except OSError as error: came = "error"
found = []
for directory, _, files in os.walk("/"):
    if directory.startswith(("/proc", "/sys")): continue
    for name in files:
        try:
            if stat.S_ISSOCK(os.lstat(os.path.join(directory, name)).st_mode): found.append(name)
        except OSError: pass
result = [came, found]
"""
    ((ping, sockets),) = world.run(box, {"do": "python", "code": code})
    assert ping in ("error", "no socket")
    assert not {"node.sock", "dial.sock"} & set(sockets)


PACKETS = Path(__file__).parent.parent / "inside" / "packets.py"


def test_packets_made_by_hand_are_the_sandboxs_own_or_go_nowhere(world: World, box: dict[str, Any]) -> None:
    """A user name space gives anybody inside raw sockets on the sandbox's network: the firewall judges what they do."""
    kinds = {"udp", "tcp", "ping", "ipip", "gre", "pieces", "routed"}
    maker = world.sandbox("good.test")
    link, gateway = _link_of(maker["address"])
    forged = ["8.8.8.8", box["address"], gateway, GOOD, "127.0.0.1", "169.254.169.253"]
    told = {"own": maker["address"], "forged": forged, "targets": [GOOD, box["address"]], "gateway": gateway}
    written = world.node.exec(maker, f"cat >/tmp/packets.py <<'END-OF-IT'\n{PACKETS.read_text()}\nEND-OF-IT")
    assert written.exit_code == 0
    for network in (None, {"mode": "allow_all"}):
        if network is not None:
            world.policy(maker, network=network)
        with sniffing(rb"MARK<([-a-z0-9.]+)>") as sniffer:
            ran = world.node.exec(maker, f"python3 /tmp/packets.py {shlex.quote(json.dumps(told))}")
            assert ran.exit_code == 0, ran.stderr
            sniffer.wait("end")
        came = json.loads(ran.stdout)
        assert (came["uid"] > 0, came["plainly"], came["alone"]) == (True, "not permitted", 0)
        assert came["frame"] == "OSError", "nobody sends frames"
        assert came["connects"]["8.8.8.8"][1] == "TimeoutError"
        sent = sniffer.sent(link)
        assert {f"{kind}-own-{GOOD}" for kind in kinds} | {f"udp-8.8.8.8-{GOOD}"} <= sent, "none was made"
        elsewhere = sniffer.elsewhere(link)
        allowed = {"udp", "tcp", "ping", "ipip", "gre", "pieces"} if network is not None else set()
        assert set(elsewhere) == {f"{kind}-own-{GOOD}" for kind in allowed}, elsewhere
    code = NEAR.format(places=[*CLOUDS, gateway, world.internet.host, box["address"]])
    assert world.run(maker, {"do": "python", "code": code}) == [[]], "an open network leads to nothing near"
    world.node.call("DELETE", f"/sandboxes/{maker['id']}")


CLOUDS = (METADATA, "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "100.64.0.1")
NEAR = """
import socket
result = []
for place in {places}:
    for port in (22, 80, 443, 8080, 49983):
        try: socket.create_connection((place, port), 3).close()
        except OSError as error:
            if error.errno in (111, 101, 113): continue
        result.append([place, port])
"""


def _link_of(address: str) -> tuple[str, str]:
    """The host's side of a sandbox's link: its name, and its address."""
    routes = json.loads(subprocess.run(["ip", "-j", "route", "get", address], capture_output=True, check=True).stdout)
    return routes[0]["dev"], routes[0]["prefsrc"]
