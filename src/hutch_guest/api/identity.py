"""Who the sandbox is: what `prepare` and `thaw` are told, checked as a whole and then put into force."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any

from hutch_guest.errors import InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.processes import environment

BOOT_ID = "/run/hutch/boot_id"
GENERATION = "/run/hutch/generation"
ENVIRONMENT = "/run/hutch/environment"
SNAPSHOT = "/run/hutch/snapshot"
_CLOCK_TOLERANCE = 2.0


class Identity:
    """One request's worth; None is what it does not say."""

    __slots__ = ("boot_id", "env", "hostname", "hosts", "limits", "sandbox_id", "secrets", "time", "token", "trust")

    def __init__(self) -> None:
        self.sandbox_id: str | None = None
        self.hostname: str | None = None
        self.hosts: dict[str, Any] = {}
        self.token: str | None = None
        self.env: dict[str, str] | None = None
        self.limits: dict[str, int] | None = None
        self.boot_id: str | None = None
        self.secrets: dict[str, str] | None = None
        self.trust: tuple[str, str] | None = None
        """An authority, and what OpenSSL calls its file by."""
        self.time: float | None = None


def check(raw: dict[str, Any]) -> Identity:
    """Raises `InvalidRequest`; then nothing has changed."""
    found = Identity()
    found.token = _text(raw, "access_token")
    found.sandbox_id = _text(raw, "sandbox_id")
    found.hostname = _text(raw, "hostname")
    found.boot_id = _text(raw, "boot_id")
    if raw.get("env") is not None:
        found.env = environment.check(raw["env"])
    if isinstance(raw.get("secrets"), dict):
        found.secrets = environment.check(raw["secrets"].get("env"))
        if raw["secrets"].get("authority"):
            found.trust = str(raw["secrets"]["authority"]), str(raw["secrets"]["hash"])
    if raw.get("limits") is not None:
        found.limits = _limits(raw["limits"])
    if isinstance(raw.get("hosts"), dict):
        found.hosts = raw["hosts"]
    if isinstance(raw.get("time"), int | float):
        found.time = raw["time"]
    return found


def take(guest: Guest, given: Identity) -> None:
    """Be it from now on."""
    if guest.system:
        if given.hostname is not None or given.hosts:
            _name_machine(given.hostname or "", given.hosts)
        if given.time is not None:
            _set_clock(given.time)
    if given.env is not None:
        guest.env = given.env
    if given.secrets is not None:
        guest.secrets = given.secrets
    if given.trust is not None and guest.system:
        from hutch_guest import trust

        trust.install(*given.trust)
    if given.limits is not None:
        guest.limits = given.limits
    if given.sandbox_id is not None:
        guest.sandbox_id = given.sandbox_id
    if given.boot_id is not None:
        guest.boot_id = given.boot_id
        if guest.system:
            _tell_boot_id(given.boot_id)
    if given.token is not None:
        guest.access_token, guest.former_token = given.token, None


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidRequest(f"{name} is not a text", field=name)
    return value


def _limits(raw: object) -> dict[str, int]:
    if not isinstance(raw, dict):
        raise InvalidRequest("limits is not an object", field="limits")
    return {name: int(value) for name, value in raw.items() if isinstance(value, int | float) and value > 0}


def _name_machine(hostname: str, hosts: dict[str, Any]) -> None:
    """/etc/hostname, the kernel's host name, and /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    if hostname:
        with contextlib.suppress(OSError):
            socket.sethostname(hostname)
        _write("/etc/hostname", hostname + "\n")
        lines.append(f"127.0.1.1 {hostname}")
    lines += [f"{address} {name}" for name, address in hosts.items()]
    _write("/etc/hosts", "\n".join(lines) + "\n")


def _tell_boot_id(boot_id: str) -> None:
    """For programs that must know whether they are a fork by now."""
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(BOOT_ID), exist_ok=True)
    _write(BOOT_ID, boot_id + "\n")


def new_generation(guest: Guest) -> None:
    """Another number, for programs that must notice that they were thawed: what they hold may be held twice by now.
    Before it the sandbox's environment, as JSON, for resident processes that were started before there was one: only
    the user that commands run as can read it. Both are renamed into place, so that they are never read half, and who
    watches the directory is told."""
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(GENERATION), exist_ok=True)
        _tell_environment(guest)
        _renumber(GENERATION)


def new_snapshot() -> None:
    """Another number, for programs whose connections were cut by a snapshot of the sandbox, which goes on itself."""
    with contextlib.suppress(OSError):
        _renumber(SNAPSHOT)


def _renumber(path: str) -> None:
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(os.urandom(16).hex() + "\n")
    os.replace(path + ".new", path)


def _tell_environment(guest: Guest) -> None:
    account = guest.account(None)
    merged: dict[str, str] = {}
    for layer in guest.layers()[1:]:  # the template's own they have
        merged.update(layer)
    fd = os.open(ENVIRONMENT + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o400)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        os.fchown(fd, account.uid, account.gid)
        file.write(json.dumps(merged))
    os.replace(ENVIRONMENT + ".new", ENVIRONMENT)


def _write(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _set_clock(now: float) -> None:
    """After a thaw the clock may be behind; a small difference is left alone."""
    if abs(time.time() - now) > _CLOCK_TOLERANCE:
        with contextlib.suppress(OSError):
            time.clock_settime(time.CLOCK_REALTIME, now)
