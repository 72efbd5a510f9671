"""Run inside a sandbox: holds connections to the server `argv[1]:argv[2]` over a freeze, each in its own way, and
prints what becomes of each, as a line. A server that sends slowly is at `/slow`."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time

ADDRESS, PORT = sys.argv[1], int(sys.argv[2])
URL = f"http://{ADDRESS}:{PORT}"
FETCH = """
fetch(process.argv[1]).then(async answer => {
  console.log("begun");
  for await (const piece of answer.body) {}
  console.log("whole");
}).catch(error => console.log("error", error.cause ? error.cause.code : error.code))
"""
_lock = threading.Lock()


def say(line: str) -> None:
    with _lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def curl() -> None:
    with subprocess.Popen(
        ["curl", "-sSN", f"{URL}/slow"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        say("curl begun")
        process.stdout.read()
        say(f"curl ended {process.wait()}")


def node() -> None:
    with subprocess.Popen(["node", "-e", FETCH, f"{URL}/slow"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(f"node {line.strip()}")


def receiver() -> None:
    with socket.create_connection((ADDRESS, PORT)) as connection:
        connection.sendall(b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
        say("recv begun")
        try:
            connection.recv(1)
            say("recv nothing")
        except OSError as error:
            say(f"recv {type(error).__name__}")


def keep_alive() -> None:
    connection = http.client.HTTPConnection(ADDRESS, PORT, timeout=20)
    connection.request("GET", "/quick")
    connection.getresponse().read()
    say("idle begun")
    before = now = time.time()
    while now - before < 1.0:  # the clock jumps over the freeze
        before = now
        time.sleep(0.05)
        now = time.time()
    started = time.monotonic()
    try:
        connection.request("GET", "/quick")
        connection.getresponse()
        say("idle answered")
    except OSError as error:
        connection.close()
        connection.request("GET", "/quick")
        said = connection.getresponse().read().decode()
        say(f"idle {type(error).__name__} {time.monotonic() - started < 1.0} {said}")


for work in (curl, node, receiver, keep_alive):
    threading.Thread(target=work).start()
