"""What `hutch doctor` looks at. Each check says how it is and, where something is amiss, what to do."""

from __future__ import annotations

import ctypes.util
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hutch.cli.units import human_bytes
from hutch.errors import HutchError
from hutch.settings import Settings

Status = Literal["ok", "warn", "fail"]
GIB = 1 << 30
RUNSC_TRIAL = ("--network=none", "--ignore-cgroups", "--platform=systrap", "do", "/bin/true")
CONTROLLERS = {"cpu", "memory", "pids"}


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


def machine(settings: Settings) -> Check:
    """Processor and kernel."""
    kernel, cpu = platform.release(), platform.machine()
    match = re.match(r"(\d+)\.(\d+)", kernel)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if platform.system() != "Linux" or cpu not in ("x86_64", "aarch64"):
        return Check(
            "kernel", "fail", f"{platform.system()} {kernel} on {cpu}", "Hutch needs Linux on x86_64 or aarch64."
        )
    if version < (5, 4):
        return Check("kernel", "warn", f"{kernel} on {cpu}", "gVisor is slow or fails on kernels before 5.4: upgrade.")
    return Check("kernel", "ok", f"{kernel} on {cpu}")


def root(settings: Settings) -> Check:
    """Whether we are root."""
    if os.geteuid() == 0:
        return Check("root", "ok", "yes")
    return Check("root", "warn", f"uid {os.geteuid()}: some checks are left out", "Run `sudo hutch doctor`.")


def cgroups(settings: Settings) -> Check:
    """Whether limits can be set."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        kind, found = "v2", set((base / "cgroup.controllers").read_text().split())
    else:
        kind, found = "v1", {name for name in CONTROLLERS if (base / name).is_dir()}
    missing = CONTROLLERS - found
    if missing:
        fix = "Boot with systemd.unified_cgroup_hierarchy=1 (and cgroup_enable=memory), or mount the controllers."
        return Check("cgroups", "fail", f"{kind}, without {', '.join(sorted(missing))}", fix)
    return Check("cgroups", "ok", f"{kind}: {', '.join(sorted(CONTROLLERS))}")


def runsc(settings: Settings) -> Check:
    """gVisor: there, and able to run something."""
    binary = shutil.which(settings.runsc)
    if binary is None:
        fix = "`make setup` installs it (Debian 12: apt install -t bookworm-backports runsc), or set HUTCH_RUNSC."
        return Check("gVisor", "fail", f"{settings.runsc} is not there", fix)
    version = _run([binary, "--version"])[1].partition("\n")[0].removeprefix("runsc version ")
    if os.geteuid() != 0:
        return Check("gVisor", "ok", f"{binary} {version} (not tried: needs root)")
    good, said = _run([binary, *RUNSC_TRIAL], 60)
    if not good:
        return Check(
            "gVisor",
            "fail",
            f"{version} cannot run a trivial sandbox: {said[-200:]}",
            "Try a newer runsc; see docs/operations.md.",
        )
    return Check("gVisor", "ok", f"{version}; a trivial sandbox runs")


def firewall(settings: Settings) -> Check:
    """nftables."""
    if ctypes.util.find_library("nftables") is None and shutil.which("nft") is None:
        return Check("nftables", "fail", "not installed", "apt install nftables")
    if os.geteuid() == 0 and (nft := shutil.which("nft") or shutil.which("nft", path="/usr/sbin")):
        good, said = _run([nft, "list", "tables"])
        if not good:
            return Check(
                "nftables", "fail", f"does not answer: {said[-160:]}", "The kernel needs nf_tables: modprobe nf_tables"
            )
    return Check("nftables", "ok", "there")


def namespaces(settings: Settings) -> Check:
    """Network namespaces and the links into them."""
    if os.geteuid() != 0:
        return Check("namespaces", "ok", "not tried: needs root")
    ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin") or "ip"
    good, said = _run(
        ["unshare", "--net", ip, "link", "add", "hutch-doctor", "type", "veth", "peer", "name", "hutch-doctor2"]
    )
    if not good:
        return Check(
            "namespaces",
            "fail",
            f"no veth in a new network namespace: {said[-160:]}",
            "In a container: run it privileged, or on the host.",
        )
    try:
        Path("/run/netns").mkdir(exist_ok=True)
    except OSError as error:
        return Check("namespaces", "fail", f"/run/netns: {error.strerror}", "/run must be writable.")
    return Check("namespaces", "ok", "network namespaces and veth links can be made")


def user(settings: Settings) -> Check:
    """The server's user."""
    try:
        entry = pwd.getpwnam(settings.server_user)
    except KeyError:
        return Check("server user", "warn", f"{settings.server_user!r} does not exist", "`hutch up` makes it.")
    return Check("server user", "ok", f"{entry.pw_name} (uid {entry.pw_uid})")


def tools(settings: Settings) -> Check:
    """What template builds need."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = {"mkfs.erofs": "erofs-utils", "mmdebstrap": "mmdebstrap"}
    missing = [package for tool, package in packages.items() if shutil.which(tool, path=path) is None]
    if missing:
        return Check(
            "build tools",
            "warn",
            f"{', '.join(missing)} missing",
            f"To build templates: apt install {' '.join(missing)}",
        )
    return Check("build tools", "ok", ", ".join(packages))


def disk(settings: Settings) -> Iterator[Check]:
    """Room for sandboxes and for images."""
    for name, path in (("data disk", settings.data_dir), ("cache disk", settings.cache_dir)):
        place = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(place).free
        status: Status = "ok" if free > 5 * GIB else "warn" if free > GIB else "fail"
        fix = (
            None if status == "ok" else f"Make room below {place}, or move it with HUTCH_{name.split()[0].upper()}_DIR."
        )
        yield Check(name, status, f"{human_bytes(free)} free for {path}", fix)


def memory(settings: Settings) -> Check:
    """Room for sandboxes."""
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"^MemAvailable:\s+(\d+)", text, re.MULTILINE)
    free = int(match[1]) * 1024 if match else 0
    if free < GIB:
        return Check(
            "memory", "warn", f"{human_bytes(free)} available", "An agent takes 150 to 600 MiB: free some memory."
        )
    return Check("memory", "ok", f"{human_bytes(free)} available")


def port(settings: Settings, ours: bool) -> Check:
    """Whether the API and the gateway can listen."""
    where = f"{settings.host}:{settings.port} and {settings.gateway_port}"
    wanted = [
        (settings.host, settings.port, "HUTCH_PORT"),
        (settings.host, settings.gateway_port, "HUTCH_GATEWAY_PORT"),
    ]
    if settings.tls_wanted:
        where += f", {settings.tls_host}:{settings.tls_port}"
        wanted.append((settings.tls_host, settings.tls_port, "HUTCH_TLS_PORT"))
    if ours:
        return Check("port", "ok", f"{where} are ours")
    for host, number, setting in wanted:
        if trouble := _cannot_listen(host, number):
            return Check(
                "port", "fail", f"{host}:{number}: {trouble}", f"Set {setting} to another, or end what uses it."
            )
    return Check("port", "ok", f"{where} are free")


def _cannot_listen(host: str, number: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            return error.strerror or str(error)
    return None


def guarded(name: str, check: Callable[[Settings], Check], settings: Settings) -> Check:
    """A check that fails itself is a finding too."""
    try:
        return check(settings)
    except (OSError, subprocess.SubprocessError, ValueError, HutchError) as error:
        return Check(name, "warn", f"could not be looked at: {error}")


def _run(command: list[str], timeout: float = 20) -> tuple[bool, str]:
    """Whether it went well, and what it said."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, (done.stdout + done.stderr).strip()
