"""Run in a sandbox, as an ordinary user: makes packets by hand. Its argument: JSON with `own`, `forged` (sources) and
`targets` (addresses). Each packet bears a mark, `<kind>-<source>-<target>-`; the last one is `end`."""

import ctypes
import json
import os
import socket
import struct
import sys

CLONE_NEWUSER = 0x10000000
UDP, TCP, ICMP, IPIP, GRE = 17, 6, 1, 4, 47


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source, target, protocol, body, fragment=0, options=b""):
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 + words, 0, words * 4 + len(body), 7, fragment, 64, protocol, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(target) + options + body


def udp(mark, port=9999):
    return struct.pack(">HHHH", 40000, port, 8 + len(mark), 0) + mark


def syn(mark):
    return struct.pack(">HHIIBBHHH", 40001, 80, 1, 0, 0x50, 2, 1000, 0, 0) + mark


def echo(mark):
    mark += bytes(len(mark) % 2)
    body = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + mark
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def packets(source, target, told):
    def mark(kind):
        return f"MARK<{kind}-{told}-{target}>".encode()

    yield ip(source, target, UDP, udp(mark("udp")))
    yield ip(source, target, TCP, syn(mark("tcp")))
    yield ip(source, target, ICMP, echo(mark("ping")))
    yield ip(source, target, IPIP, ip(source, target, UDP, udp(mark("ipip"))))
    yield ip(source, target, GRE, b"\0\0\x08\0" + ip(source, target, UDP, udp(mark("gre"))))
    whole = udp(mark("pieces"))
    yield ip(source, target, UDP, whole[:8], fragment=0x2000)
    yield ip(source, target, UDP, whole[8:], fragment=1)
    by_way_of = b"\x83\x07\x04" + socket.inet_aton(target) + b"\0"
    yield ip(source, gateway, UDP, udp(mark("routed")), options=by_way_of)


def netlink(kind, body):
    """The kernel's answer: 0, or an error's number."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(struct.pack("IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
        return struct.unpack_from("i", kernel.recv(4096), 16)[0]


def add_address(address):
    packed, link = socket.inet_aton(address), socket.if_nametoindex("eth0")
    attributes = struct.pack("HH", 8, 2) + packed + struct.pack("HH", 8, 1) + packed
    return netlink(20, struct.pack("BBBBI", socket.AF_INET, 32, 0, 0, link) + attributes)


def connect_from(source, target):
    with socket.socket() as client:
        client.settimeout(1.5)
        try:
            client.bind((source, 0))
            client.connect((target, 80))
        except OSError as error:
            return type(error).__name__
        return "open"


asked = json.loads(sys.argv[1])
gateway = asked["gateway"]
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    plainly = "made"
except PermissionError:
    plainly = "not permitted"
alone = ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
    for source in [asked["own"], *asked["forged"]]:
        for target in asked["targets"]:
            for packet in packets(source, target, "own" if source == asked["own"] else source):
                raw.sendto(packet, (gateway if packet[0] > 0x45 else target, 0))
    came = {}
    for source in asked["forged"][:1]:
        came[source] = (add_address(source), connect_from(source, asked["targets"][0]))
    raw.sendto(ip(asked["own"], gateway, UDP, udp(b"MARK<end>")), (gateway, 0))
try:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as frames:
        frames.bind(("eth0", 0x0806))
        frame = frames.send(b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(28))
except OSError as error:
    frame = type(error).__name__
print(json.dumps({"uid": os.getuid(), "plainly": plainly, "alone": alone, "connects": came, "frame": frame}))
