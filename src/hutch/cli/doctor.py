"""`hutch doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import typer
from rich.text import Text

from hutch.cli import checks, tls_checks
from hutch.cli.checks import Check
from hutch.cli.common import Connection, Json, connection, leave
from hutch.cli.console import clean, err, note, out, print_json
from hutch.cli.host import StateFile, damaged_snapshots, node_health, orphans, server_url
from hutch.cli.naming import as_running
from hutch.cli.units import human_bytes
from hutch.errors import HutchError, Unauthorized
from hutch.settings import Settings, get_settings

_MARKS = {"ok": ("✓", "green"), "warn": ("▲", "yellow"), "fail": ("✗", "bold red")}
_HOST_CHECKS = {
    "kernel": checks.machine,
    "root": checks.root,
    "cgroups": checks.cgroups,
    "gVisor": checks.runsc,
    "nftables": checks.firewall,
    "namespaces": checks.namespaces,
    "server user": checks.user,
    "build tools": checks.tools,
    "memory": checks.memory,
}


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check this machine, and say what to do about what is wrong. Exit code 1 when something must be done."""
    settings, link = get_settings(), connection(ctx)
    found = []
    with err.status("looking around"):
        for check in _examine(settings, link):
            found.append(check)
            if not json:
                _show(check)
    if json:
        print_json([check.__dict__ for check in found])
    failed = sum(check.status == "fail" for check in found)
    if not json:
        warned = sum(check.status == "warn" for check in found)
        note(f"{len(found)} checks, {failed} failed, {warned} to look at", "bold red" if failed else "dim")
    leave(1 if failed else 0)


def _examine(settings: Settings, link: Connection) -> Iterator[Check]:
    for name, check in _HOST_CHECKS.items():
        yield checks.guarded(name, check, settings)
    yield from checks.disk(settings)
    settings = as_running(settings)
    url = link.url or server_url(settings)
    yield checks.port(settings, ours=server_url(settings) is not None)
    yield from tls_checks.names(settings)
    yield _node(settings)
    if os.geteuid() == 0:
        yield from _kept(settings)
    yield _server(url)
    if url:
        yield from _with_key(link)


def _node(settings: Settings) -> Check:
    if os.geteuid() != 0:
        return Check("node", "ok", "not asked: needs root")
    if info := node_health(settings):
        ready, memory = (sum(getattr(each, name) for each in info.warm) for name in ("ready", "memory_bytes"))
        warm = f"{ready} warm ({human_bytes(memory)})" if info.warm_memory_limit else "no warm pool"
        ahead = f"{info.kernels_ahead} kernels ahead ({human_bytes(info.kernels_ahead_bytes)})"
        text = f"{info.runtime}, {info.sandboxes} sandboxes, {warm}, {ahead}, {info.slots_free} slots ready"
        return Check("node", "ok", text)
    if StateFile(settings).held:
        return Check("node", "fail", "does not answer although hutch is up", f"See {settings.data_dir}/logs/node.log.")
    return Check("node", "warn", "not running", "`hutch up` starts it.")


def _kept(settings: Settings) -> Iterator[Check]:
    """What is wrong with what the node keeps."""
    if damaged := damaged_snapshots(settings):
        yield Check(
            "snapshots",
            "fail",
            f"the disk has changed bits of {', '.join(damaged)}",
            "Take them anew where their sandboxes live, and delete them: `hutch snapshot rm`. Look at the disk, too.",
        )
    if found := orphans(settings):
        each = ", ".join(f"{one.id} (stands on {one.snapshot}, until {one.until:%Y-%m-%d %H:%M} UTC)" for one in found)
        yield Check(
            "orphans",
            "warn",
            f"paused sandboxes that the server's database does not know: {each}",
            "Put the right database back; or go on from one with `hutch run --keep --from SNAPSHOT -- true`, and "
            "remove it: `hutch orphan rm`.",
        )


def _server(url: str | None) -> Check:
    if url is None:
        return Check("server", "warn", "not running", "`hutch up` starts it.")
    try:
        good = httpx.get(f"{url}/healthz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError as error:
        return Check("server", "fail", f"{url} does not answer: {error}", "`hutch up`, or check the address.")
    return Check("server", "ok", url) if good else Check("server", "fail", f"{url} is not well", "See its log.")


def _with_key(link: Connection) -> Iterator[Check]:
    """What can be asked only with a key."""
    try:
        with link.client() as client:
            templates = client.templates.list()
    except Unauthorized as error:
        yield Check("API key", "warn", error.detail, error.hint)
        return
    except HutchError as error:
        yield Check("templates", "fail", error.detail, error.hint)
        return
    yield Check("API key", "ok", "works")
    built = [each.name for each in templates if each.image]
    rest = [each.name for each in templates if not each.image]
    if rest:
        yield Check("templates", "warn", f"not built: {', '.join(rest)}", f"hutch template build {' '.join(rest)}")
    else:
        yield Check("templates", "ok", f"built: {', '.join(built)}")


def _show(check: Check) -> None:
    mark, style = _MARKS[check.status]
    out.print(
        Text.assemble(
            (f"{mark} ", style),
            (f"{check.name:<12} ", ""),
            (clean(check.detail), "dim" if check.status == "ok" else ""),
        )
    )
    if check.fix:
        out.print(Text(f"  → {clean(check.fix)}", style=style))
