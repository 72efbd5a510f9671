"""Fetches one commit of a git repository, with git itself, held tight: https and http only, no prompts, no
configuration but ours, no hooks, no submodules, no redirects, the checked address pinned, time and size bounded. Only
the `.git` directory is made here; the working copy is checked out inside the sandbox."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from hutch.control.addresses import resolve
from hutch.control.fetch import Fetcher, shown
from hutch.errors import InputFailed, PayloadTooLarge

_LONGEST = 600.0
_LOOK = 0.5
_REFS = "/info/refs?service=git-upload-pack"
_MAX_ERROR = 8192
_SECRETS = re.compile(r"//[^/@\s]*@")


class GitFetcher:
    """`allow_private` is for development."""

    def __init__(self, fetcher: Fetcher, allow_private: bool, max_bytes: int, scratch: Path) -> None:
        self._fetcher = fetcher
        self._allow_private = allow_private
        self._max_bytes = max_bytes
        self._scratch = scratch

    @asynccontextmanager
    async def fetched(self, url: str, commit: str) -> AsyncIterator[tuple[str, AsyncGenerator[bytes, None]]]:
        """The commit's full name, and a tar stream of the `.git` directory. Raises `InputFailed`,
        `PayloadTooLarge`."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="git-", dir=self._scratch))
        try:
            name = await self._fetch(url, commit, directory)
            yield name, _tar(directory)
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _fetch(self, url: str, commit: str, directory: Path) -> str:
        base = url.rstrip("/")
        # Git is not allowed to follow redirects; where they lead is found out here, each hop checked.
        final = (await self._fetcher.final_url(base + _REFS)).removesuffix(_REFS)
        parts = urlsplit(final)
        credentials, at, _ = urlsplit(base).netloc.rpartition("@")
        if at and parts.hostname == urlsplit(base).hostname:
            parts = parts._replace(netloc=f"{credentials}@{parts.netloc.rpartition('@')[2]}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = await resolve(parts.hostname or "", port, self._allow_private)
        pin = f"{parts.hostname}:{port}:{address}"
        git = ["git", "-C", str(directory), "-c", f"http.curloptResolve={pin}"]
        await self._run(["git", "init", "--quiet", "--template=", str(directory)], directory)
        await self._run(
            [
                *git,
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--no-recurse-submodules",
                "--no-write-fetch-head",
                "--",
                parts.geturl(),
                f"+{commit}:refs/hutch/input",
            ],
            directory,
        )
        name = (await self._run([*git, "rev-parse", "--verify", "refs/hutch/input^{commit}"], directory)).strip()
        await self._run([*git, "config", "remote.origin.url", shown(base)], directory)
        return name

    async def _run(self, command: list[str], directory: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(directory),
            start_new_session=True,
        )
        output = asyncio.create_task(process.communicate())
        try:
            await self._supervise(output, directory)
            out, problem = await output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.gather(output, return_exceptions=True)
        if process.returncode != 0:
            text = _SECRETS.sub("//", problem[-_MAX_ERROR:].decode(errors="replace")).strip()
            raise InputFailed(f"git: {text or 'failed'}", hint="A commit is named by its full hash, a branch or a tag.")
        return out.decode(errors="replace")

    async def _supervise(self, output: asyncio.Task[tuple[bytes, bytes]], directory: Path) -> None:
        until = time.monotonic() + _LONGEST
        while not (await asyncio.wait({output}, timeout=_LOOK))[0]:
            if time.monotonic() > until:
                raise InputFailed(f"git did not end in {_LONGEST:g} s")
            if await asyncio.to_thread(_size, directory) > self._max_bytes:
                raise PayloadTooLarge(f"the repository has more than {self._max_bytes} bytes")


async def _tar(directory: Path) -> AsyncGenerator[bytes, None]:
    process = await asyncio.create_subprocess_exec(
        "tar", "-C", str(directory), "--owner=0", "--group=0", "--numeric-owner", "-cf", "-", ".git",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while chunk := await process.stdout.read(1 << 18):
            yield chunk
        if await process.wait() != 0:
            raise InputFailed("the fetched repository could not be packed")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _environment(directory: Path) -> dict[str, str]:
    settings = {
        "protocol.allow": "never",
        "protocol.https.allow": "always",
        "protocol.http.allow": "always",
        "http.followRedirects": "false",
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": "60",
        "credential.helper": "",
        "core.hooksPath": "/dev/null",
        "core.fsmonitor": "false",
        "fetch.fsckObjects": "true",
        "safe.directory": "*",
        "gc.auto": "0",
    }
    pairs = {
        name: text
        for index, (key, value) in enumerate(settings.items())
        for name, text in ((f"GIT_CONFIG_KEY_{index}", key), (f"GIT_CONFIG_VALUE_{index}", value))
    }
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_CONFIG_COUNT": str(len(settings)),
        **pairs,
    }


def _size(directory: Path) -> int:
    total = 0
    for base, _, files in os.walk(directory):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total
