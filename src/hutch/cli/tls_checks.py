"""What `hutch doctor` looks at where API and sandboxes are served by host name with TLS."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from hutch.cli.checks import Check, Status, guarded
from hutch.settings import Settings
from hutch.tls import TlsProblem, find_files, host_of, read_certificate


def names(settings: Settings) -> Iterator[Check]:
    """The certificate, and whether the names lead anywhere; nothing where there is no TLS."""
    if not settings.tls_wanted:
        return
    yield guarded("certificate", certificate, settings)
    yield guarded("names", lookup, settings)


def certificate(settings: Settings) -> Check:
    """What is served: whose it is, and for how long."""
    if os.geteuid() != 0:
        return Check("certificate", "ok", "not looked at: needs root")
    try:
        files = find_files(settings)
        found = read_certificate(files.chain, files.key, host_of(settings))
    except TlsProblem as problem:
        return Check("certificate", "fail", problem.detail, problem.hint)
    days = round(found.days_left)
    said = f"{files.chain}, for {', '.join(found.names)}, {days} days left"
    if days < 1:
        return Check("certificate", "fail", said, "Put a new one in its place: it is taken without a restart.")
    status: Status = "ok" if days > 14 else "warn"
    return Check("certificate", status, said, None if status == "ok" else "Renew it.")


def lookup(settings: Settings) -> Check:
    """DNS, as this machine sees it."""
    host = host_of(settings)
    for name in (f"api.{host}", f"8000-sandbox.{host}"):
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            fix = f"DNS: lead *.{host} to this machine. Without it clients use E2B_API_URL and E2B_SANDBOX_URL."
            return Check("names", "warn", f"{name}: {error.strerror}", fix)
    return Check("names", "ok", f"*.{host} has an address")
