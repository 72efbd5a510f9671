"""Collects a task's outputs into an artifact that outlives the sandbox."""

from __future__ import annotations

import posixpath
import re
from collections.abc import AsyncIterator
from typing import Any

from hutch.control.context import Context
from hutch.control.tar_index import TarIndex
from hutch.control.types import Download, Stream
from hutch.errors import FileMissing, GuestUnavailable, InputFailed, NotFound
from hutch.fleet import GuestClient
from hutch.store.tasks import TaskRow


class Outputs:
    """Artifacts: one blob a task."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def collect(self, task: TaskRow, guest: GuestClient, workdir: str) -> dict[str, Any]:
        """Fetch the files that match into the artifact (replacing it); the columns of the task that tell of it."""
        limit = self._context.settings.max_artifact
        base, globs = below(workdir, task.output_globs)
        answer = await guest.files.collect(base, globs, limit)
        index = TarIndex()
        key = artifact_key(task.id)
        try:
            # The guest stops at the limit by itself; headers and padding come on top of what it counts.
            size = await self._context.blobs.put(key, _indexed(answer.chunks(), index), 2 * limit)
        except GuestUnavailable:
            raise
        except InputFailed:
            await self._context.blobs.delete(key)
            raise
        finally:
            await answer.aclose()
        return {
            "artifact": key,
            "artifact_bytes": size,
            "output_files": [[entry.path, entry.size, entry.offset] for entry in index.entries],
            "outputs_truncated": index.truncated or answer.headers.get("x-hutch-truncated") == "1",
        }

    async def whole(self, task: TaskRow) -> Download:
        """The artifact. Raises `NotFound` while there is none."""
        size = await self._context.blobs.size(task.artifact) if task.artifact is not None else None
        if task.artifact is None or size is None:
            when = "it has none yet" if task.ended_at is None else "it has none"
            raise NotFound(f"no outputs of {task.id}: {when}")
        return Download(Stream(self._context.blobs.get(task.artifact, length=size)), size)

    async def file(self, task: TaskRow, path: str) -> Download:
        """One file of it. Raises `FileMissing`."""
        await (await self.whole(task)).chunks.aclose()
        for name, size, offset in task.output_files:
            if name == path and task.artifact is not None:
                return Download(Stream(self._context.blobs.get(task.artifact, offset, size)), size)
        raise FileMissing(f"{path[:300]} is not among the outputs of {task.id}")


def artifact_key(task_id: str) -> str:
    """The blob's key."""
    return f"artifacts/{task_id}.tar"


def below(workdir: str, globs: list[str]) -> tuple[str, list[str]]:
    """The directory to look in, and the globs relative to it: the working directory, unless a glob leads out of it;
    then the root."""
    home = workdir.rstrip("/") + "/"
    relative = [glob.removeprefix(home) for glob in globs]
    if not any(glob.startswith("/") for glob in relative):
        return workdir, relative
    literal = re.sub(r"([*?\[\]])", r"[\1]", home)
    return "/", [glob.lstrip("/") if glob.startswith("/") else (literal + glob).lstrip("/") for glob in relative]


def check_glob(glob: str) -> bool:
    """Whether the glob may be asked for: no way up."""
    return "\0" not in glob and ".." not in glob.split("/") and posixpath.normpath(glob) not in ("/", "//")


async def _indexed(chunks: AsyncIterator[bytes], index: TarIndex) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        index.feed(chunk)
        yield chunk
    index.close()
