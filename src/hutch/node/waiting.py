"""Waiting for something of a sandbox, no longer than that makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hutch.errors import BootFailed, HutchError, SandboxNotRunning
from hutch.node.entry import Entry
from hutch.node.process import process_end
from hutch.runtime.base import Handle

T = TypeVar("T")


async def unless_doomed(
    entry: Entry,
    work: Coroutine[Any, Any, T],
    handle: Handle | None = None,
    failure: type[HutchError] = BootFailed,
) -> T:
    """The result of `work`, given up as soon as the sandbox is deleted, or its kernel (`handle`) ends.

    Raises `SandboxNotRunning`, or `failure`.
    """
    doing = asyncio.ensure_future(work)
    others: list[asyncio.Future[Any]] = [asyncio.ensure_future(entry.doomed.wait())]
    if handle is not None:
        others.append(asyncio.ensure_future(process_end(handle.pid)))
    try:
        await asyncio.wait({doing, *others}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        check_doomed(entry)
        raise failure("the sandbox's kernel ended while it started", hint="The node's log has its last lines.")
    finally:
        for task in (doing, *others):
            task.cancel()


def check_doomed(entry: Entry) -> None:
    """Raise `SandboxNotRunning` when it is to be deleted."""
    if entry.doomed.is_set():
        raise SandboxNotRunning(f"{entry.id} was deleted while it started")
