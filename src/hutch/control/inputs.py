"""Puts a task's inputs into its sandbox. Each may be put twice: the second time replaces the first."""

from __future__ import annotations

import posixpath
import shlex
import time
from typing import Any

from pydantic import TypeAdapter

from hutch.control.context import Context
from hutch.control.fetch import Fetcher
from hutch.control.git import GitFetcher
from hutch.errors import ExecNotFound, InputFailed, UploadNotFound
from hutch.fleet import FrameKind, GuestClient, ProcessSpec
from hutch.fleet.guest import exit_state
from hutch.model import GitInput, Input, UploadInput, UrlInput, new_id

_Input: TypeAdapter[Input] = TypeAdapter(Input)
_CHECKOUT_TIMEOUT = 600.0
_MAX_COMPLAINT = 2000


class Inputs:
    """The inputs of one sandbox; relative paths are below `workdir`."""

    def __init__(self, context: Context, guest: GuestClient, workdir: str) -> None:
        settings = context.settings
        self._context = context
        self._guest = guest
        self._workdir = workdir
        self._fetcher = Fetcher(settings.allow_private_inputs, settings.max_upload)
        self._git = GitFetcher(
            self._fetcher, settings.allow_private_inputs, settings.max_upload, settings.server_dir / "scratch"
        )

    async def place(self, wanted: dict[str, Any], org: str) -> None:
        """Put one in. Raises `InputFailed`, `UploadNotFound`, `PayloadTooLarge`, and what the guest says."""
        match _Input.validate_python(wanted):
            case UploadInput() as upload:
                await self._upload(upload, org)
            case UrlInput() as url:
                await self._guest.files.write(self._path(url.path), self._fetcher.get(url.url))
            case GitInput() as git:
                await self._clone(git)

    async def _upload(self, wanted: UploadInput, org: str) -> None:
        row = await self._context.store.uploads.get(wanted.upload, org, time.time())
        if row is None:
            raise UploadNotFound(f"no upload {wanted.upload}")
        await self._guest.files.extract(self._path(wanted.path), self._context.blobs.get(row.blob))

    async def _clone(self, wanted: GitInput) -> None:
        path = self._path(wanted.path)
        async with self._git.fetched(wanted.url, wanted.commit) as (name, tar):
            # A second try must not mix two repositories; and git asks that the directory is its user's own.
            await self._shell(f"mkdir -p {shlex.quote(path)} && rm -rf {shlex.quote(path)}/.git")
            await self._guest.files.extract(path, tar)
        git = f"git -c advice.detachedHead=false -c core.hooksPath=/dev/null -C {shlex.quote(path)}"
        await self._shell(f"{git} checkout --quiet --force --detach {name}")

    async def _shell(self, command: str) -> None:
        """Run a command in the sandbox, as the template's user; `InputFailed` with what it printed when it fails."""
        exec_id = new_id("exe")
        argv = ["/bin/sh", "-c", command]
        await self._guest.start(ProcessSpec(exec_id, argv=argv, cwd="/", timeout=_CHECKOUT_TIMEOUT))
        output = await self._guest.output(exec_id)
        printed = b""
        try:
            async for frame in output:
                if frame.kind in (FrameKind.STDOUT, FrameKind.STDERR):
                    printed = (printed + frame.payload)[-_MAX_COMPLAINT:]
                elif frame.kind is FrameKind.EXIT:
                    if exit_state(frame.payload).exit_code != 0:
                        raise InputFailed(printed.decode(errors="replace").strip() or "the checkout failed")
                    return
        finally:
            await output.aclose()
        raise ExecNotFound("the checkout's end was not seen")

    def _path(self, path: str) -> str:
        return posixpath.normpath(posixpath.join(self._workdir, path))
