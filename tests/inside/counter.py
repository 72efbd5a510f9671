"""Run inside a sandbox: keeps a number and noise in its memory. Whoever writes a number to port 7000 has it added, and
is told the sum, and the hash of the noise."""

from __future__ import annotations

import hashlib
import os
import socket

noise = os.urandom(1 << 20)
total = 0
server = socket.create_server(("127.0.0.1", 7000), backlog=64)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as stream:
        total += int(stream.readline())
        stream.write(f"{total} {hashlib.sha256(noise).hexdigest()}\n")
