"""`/hutch/ready`, `/hutch/prepare`, `/hutch/stats`."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

from hutch_guest.access import same_text
from hutch_guest.errors import InvalidRequest, Unauthorized
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, empty_response, json_response
from hutch_guest.processes import environment

_CLOCK_TOLERANCE = 2.0


async def ready(guest: Guest, request: Request) -> Response:
    """The guest answers."""
    return empty_response()


async def prepare(guest: Guest, request: Request) -> Response:
    """Tell the guest who it is. The first call sets the token; every later one needs it."""
    raw = await request.json()
    token = raw.get("access_token")
    if token is not None and (not isinstance(token, str) or not token):
        raise InvalidRequest("access_token is not a text", field="access_token")
    if guest.prepared and guest.access_token is not None:
        given = request.headers.get("x-access-token")
        if given is None or not same_text(given, guest.access_token):
            raise Unauthorized("already prepared: the access token is needed")
    env = environment.check(raw.get("env"))
    limits = _limits(raw.get("limits") or {})
    hosts = raw.get("hosts") or {}
    hostname = str(raw.get("hostname") or "")
    if guest.system:
        _name_machine(hostname, hosts)
        _set_clock(raw.get("time"))
    guest.env = env
    guest.limits = limits
    guest.sandbox_id = str(raw.get("sandbox_id") or "")
    guest.access_token = token if token is not None else guest.access_token
    guest.prepared = True
    await guest.monitor.start()
    return empty_response()


def _limits(raw: dict[str, Any]) -> dict[str, int]:
    if not isinstance(raw, dict):
        raise InvalidRequest("limits is not an object", field="limits")
    return {name: int(value) for name, value in raw.items() if isinstance(value, int | float) and value > 0}


def _name_machine(hostname: str, hosts: object) -> None:
    """/etc/hostname, the kernel's host name, and /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    if hostname:
        with contextlib.suppress(OSError):
            socket.sethostname(hostname)
        _write("/etc/hostname", hostname + "\n")
        lines.append(f"127.0.1.1 {hostname}")
    if isinstance(hosts, dict):
        lines += [f"{address} {name}" for name, address in hosts.items()]
    _write("/etc/hosts", "\n".join(lines) + "\n")


def _write(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _set_clock(now: object) -> None:
    """After a thaw the clock may be behind; a small difference is left alone."""
    if isinstance(now, int | float) and abs(time.time() - now) > _CLOCK_TOLERANCE:
        with contextlib.suppress(OSError):
            time.clock_settime(time.CLOCK_REALTIME, now)


async def stats(guest: Guest, request: Request) -> Response:
    """What is in use, as the sandbox itself sees it."""
    from hutch_guest.limits import usage

    return json_response(
        {
            "memory": usage.memory(guest.limits.get("memory_bytes")),
            "disk": usage.disk(guest.limits.get("disk_bytes")),
            "pids": sum(name.isdigit() for name in os.listdir("/proc")),
            "uptime": time.monotonic() - guest.started,
        }
    )
