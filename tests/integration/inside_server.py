"""Runs in a sandbox: a web server with good and bad manners, of the standard library only."""

from __future__ import annotations

import base64
import hashlib
import http.server
import socketserver
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_HEAD(self) -> None:
        self.answer(b"page")

    def do_POST(self) -> None:
        if self.path == "/digest":
            self.answer(hashlib.sha256(self.body()).hexdigest().encode())
        elif self.path == "/echo":
            data = self.body()
            self.chunked()
            for at in range(0, len(data), 300_000):
                self.chunk(data[at : at + 300_000])
            self.chunk(b"")
        else:
            time.sleep(60)

    def do_GET(self) -> None:
        name = self.path.strip("/").replace("-", "_")
        getattr(self, f"get_{name}", lambda: self.answer(b"nothing"))()

    def get_page(self) -> None:
        self.answer(b"page")

    def get_slow(self) -> None:
        self.chunked()
        self.chunk(b"first")
        time.sleep(1)
        self.chunk(b"second")
        self.chunk(b"")

    def get_endless(self) -> None:
        self.chunked()
        while True:
            self.chunk(bytes(1 << 18))

    def get_endless_slow(self) -> None:
        self.chunked()
        while True:
            self.chunk(b"x")
            time.sleep(0.2)

    def get_until_close(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nno length, no chunks")

    def get_until_close_slow(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.2)

    def get_nonsense(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    def get_hang_up(self) -> None:
        self.close_connection = True

    def get_too_short(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")

    def get_socket(self) -> None:
        """A WebSocket that echoes."""
        magic = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            size = head[1] & 127
            if size > 125:
                size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
            mask, data = self.rfile.read(4), bytearray(self.rfile.read(size))
            for at in range(size):
                data[at] ^= mask[at % 4]
            if size < 126:
                length = bytes([size])
            else:
                length = b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
            self.wfile.write(head[:1] + length + bytes(data))
            self.wfile.flush()
            if head[0] & 15 == 8:
                return


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
