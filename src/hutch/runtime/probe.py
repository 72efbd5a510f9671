"""Whether `runsc` works on this host, found out by running it."""

from __future__ import annotations

import asyncio
import os
import tempfile

PLATFORMS = ("systrap", "ptrace")
"""Best first. KVM is not tried: on hosts that are guests themselves it hangs instead of failing."""

INSTALL = (
    "on Debian 12 `apt-get install -t bookworm-backports runsc`, "
    "elsewhere see https://gvisor.dev/docs/user_guide/install/"
)


async def find_platform(runsc: str) -> tuple[str | None, list[str]]:
    """The best platform that works here, or None and why not."""
    if os.geteuid() != 0:
        return None, ["the node must run as root: gVisor sandboxes are put into namespaces and control groups"]
    said = ""
    for platform in PLATFORMS:
        try:
            code, said = await _try(runsc, platform)
        except FileNotFoundError:
            return None, [f"`{runsc}` is not there. Install it: {INSTALL}"]
        if code == 0:
            return platform, []
    reason = said or "no answer in 20 s"
    return None, [f"`{runsc}` cannot run a sandbox here: {reason}. If it is an old one: {INSTALL}"]


async def _try(runsc: str, platform: str) -> tuple[int, str]:
    """Run `true` in a sandbox: exit status and last line of output."""
    with tempfile.TemporaryDirectory(prefix="hutch-probe-") as root:
        process = await asyncio.create_subprocess_exec(
            *(runsc, f"--root={root}", f"--platform={platform}", "--network=none", "--ignore-cgroups"),
            *("--directfs=false", "do", "/bin/true"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
            return -1, ""
        lines = output.decode(errors="replace").strip().splitlines()
        return process.returncode or 0, lines[-1][:500] if lines else ""
