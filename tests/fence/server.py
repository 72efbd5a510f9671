"""The internet of the fence's tests, run in a namespace of its own with nothing but the standard library.

A name server (its records come as JSON lines on standard input; each question is told on standard output), and on every
address: HTTP on 80, TLS on 443 and 8443, a server that speaks first on 5432, an echo over UDP on 443 and 9999.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import os
import socket
import ssl
import struct
import sys

RECORDS = {}


def tell(**said):
    print(json.dumps(said), flush=True)


def respond(data, elsewhere=False):
    id = struct.unpack_from(">H", data)[0]
    at, labels = 12, []
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    kind = struct.unpack_from(">H", data, at + 1)[0]
    name, question = ".".join(labels).lower(), data[12 : at + 5]
    tell(asked=name, kind=kind, elsewhere=elsewhere)
    record = RECORDS.get(name)
    if record is None and "." in name:
        record = RECORDS.get("*." + name.split(".", 1)[1])
    if record is None:
        return struct.pack(">6H", id, 0x8183, 1, 0, 0, 0) + question
    if record.get("silent"):
        return None
    answers = b""
    addresses = record.get("elsewhere", []) if elsewhere else record["addresses"]
    for address in addresses:
        answers += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, record.get("ttl", 30), 4) + socket.inet_aton(address)
    return struct.pack(">6H", id, 0x8180, 1, len(addresses), 0, 0) + question + answers


class Dns(asyncio.DatagramProtocol):
    def __init__(self, elsewhere):
        self.elsewhere = elsewhere

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if (answer := respond(data, self.elsewhere)) is not None:
            self.transport.sendto(answer, addr)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def dns_stream(reader, writer):
    length = struct.unpack(">H", await reader.readexactly(2))[0]
    answer = respond(await reader.readexactly(length))
    writer.write(struct.pack(">H", len(answer)) + answer)
    writer.close()


async def http(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            told = writer.get_extra_info("ssl_object")
            said = {
                "path": lines[0].split(" ")[1],
                "host": fields.get("host"),
                "sni": getattr(told, "sni", None),
                "at": writer.get_extra_info("sockname")[0],
                "body": len(body),
            }
            tell(request=said | {"head": head})
            if said["path"].startswith("/echo"):
                writer.write(echoed(said["path"], head))
                continue
            if said["path"].startswith("/remember"):
                REMEMBERED[:] = [fields["authorization"].partition(" ")[2]]
            if said["path"].startswith("/repeat/"):
                writer.write(repeated(said["path"], REMEMBERED[0]))
                continue
            if (answer := served(said["path"], fields)) is not None:
                writer.write(answer)
                continue
            if fields.get("upgrade", "").lower() == "websocket" and said["path"] == "/ws":
                key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                accepted = base64.b64encode(hashlib.sha1(key.encode()).digest())
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n")
                writer.write(b"sec-websocket-accept: " + accepted + b"\r\n\r\n")
                while data := await reader.read(65536):
                    writer.write(data)
                return
            answer = json.dumps(said).encode()
            if said["path"].startswith("/bytes/"):
                answer = b"x" * int(said["path"].rpartition("/")[2])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, IndexError, ValueError):
        pass
    finally:
        writer.close()


async def first(reader, writer):
    writer.write(b"hello\n")
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


def named(connection, name, context):
    connection.sni = name


def echoed(path, head):
    """An answer that repeats the request's head: as it is, in small chunks, or compressed."""
    body = head.encode("latin-1")
    if path.startswith("/echo/chunked"):
        pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    coding = b""
    if path.startswith("/echo/gzip"):
        body, coding = gzip.compress(body), b"content-encoding: gzip\r\n"
    told = next((line for line in head.split("\r\n") if line.lower().startswith("authorization:")), "none: none")
    field = b"x-told: " + told.partition(": ")[2].encode("latin-1")
    return b"HTTP/1.1 200 OK\r\n%s\r\n%scontent-length: %d\r\n\r\n%s" % (field, coding, len(body), body)


REMEMBERED = []


def repeated(path, credential):
    """An answer that repeats what was shown with another request, somewhere."""
    told, plain = credential.encode(), b"content-length: 0\r\n\r\n"
    gzipped = gzip.compress(told)
    return (
        b"HTTP/1.1 "
        + {
            "header": b"200 OK\r\nx-told: %s\r\nset-cookie: a=%s; b\r\n" % (told, told) + plain,
            "name": b"200 OK\r\n%s: x\r\n" % told.replace(b"=", b"") + plain,
            "reason": b"404 no %s\r\n" % told + plain,
            "location": b"302 Found\r\nlocation: /x?t=%s&u\r\n" % told + plain,
            "early": b"103 Early\r\nlink: <%s>\r\n\r\nHTTP/1.1 200 OK\r\n" % told + plain,
            "body": b"200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(told), told),
            "chunks": b"200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;%s=y\r\nx\r\n0\r\nt: %s\r\n\r\n" % (told, told),
            "gzip": b"200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s" % (len(gzipped), gzipped),
            "br": b"200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx",
        }[path.rpartition("/")[2]]
    )


def served(path, fields):
    """A file, to who shows the token; None: there is none."""
    name = os.path.join(FILES, path.partition("?")[0].removeprefix("/files").strip("/"))
    name = os.path.join(name, "index.html") if os.path.isdir(name) else name
    if not path.startswith("/files/") or not os.path.isfile(name):
        return None
    scheme, _, shown = fields.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        shown = base64.b64decode(shown).decode().partition(":")[2]
    if shown != TOKEN:
        return b'HTTP/1.1 401 No\r\nwww-authenticate: Basic realm="x"\r\ncontent-length: 0\r\n\r\n'
    with open(name, "rb") as file:
        body = file.read()
    kind = b"text/html" if name.endswith(".html") else b"application/octet-stream"
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (kind, len(body)) + body


async def main(certificate, resolver, other, files, token):
    global FILES, TOKEN
    FILES, TOKEN = files, token
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = named
    for address in (resolver, other):
        await loop.create_datagram_endpoint(lambda elsewhere=address == other: Dns(elsewhere), local_addr=(address, 53))
    for port in (443, 9999):
        await loop.create_datagram_endpoint(Echo, local_addr=("0.0.0.0", port))
    await asyncio.start_server(dns_stream, "0.0.0.0", 53)
    await asyncio.start_server(http, "0.0.0.0", 80)
    for port in (443, 8443):
        await asyncio.start_server(http, "0.0.0.0", port, ssl=context)
    await asyncio.start_server(http, "0.0.0.0", 8080)
    await asyncio.start_server(first, "0.0.0.0", 5432)
    tell(ready=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        RECORDS.clear()
        RECORDS.update(json.loads(line))
        tell(records=len(RECORDS))


asyncio.run(main(*sys.argv[1:]))
