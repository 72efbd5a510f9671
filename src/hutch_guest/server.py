"""The guest's life: take the place of init, serve, never end (PID 1) or end tidily (a test's process)."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
from typing import TYPE_CHECKING

from hutch_guest.guest import Guest, Template
from hutch_guest.http.protocol import Connection
from hutch_guest.routes import Router

if TYPE_CHECKING:
    from hutch_guest.disk import Layers
    from hutch_guest.main import Options
    from hutch_guest.sudo.server import SudoServer

_PR_SET_CHILD_SUBREAPER = 36
_NOT_IGNORED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
"""Real faults (SIGSEGV and its like) cannot be ignored either, but those that somebody sends can."""


def run(options: Options, listener: socket.socket, disk: Layers | None) -> None:
    """Take the place of init and serve."""
    if options.system:
        # Before asyncio, whose own handler for SIGINT would be described in full, and `inspect` loaded for that.
        for number in signal.valid_signals() - _NOT_IGNORED:
            signal.signal(number, signal.SIG_IGN)  # gVisor does not protect PID 1 from what has no handler
        os.umask(0o022)
        os.chdir("/")
    asyncio.run(_serve(options, listener, disk))


def _end_of_a_process() -> asyncio.Event:
    """Be the one that orphans are handed to, though not PID 1. Set when the guest should end."""
    end = asyncio.Event()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    return end


async def _serve(options: Options, listener: socket.socket, disk: Layers | None) -> None:
    """Answer requests until told to end: never, as PID 1."""
    end = asyncio.Event() if options.system else _end_of_a_process()
    guest = Guest(Template(options.template), options.spool_dir, options.system, disk)
    if options.token is not None:
        guest.access_token, guest.prepared = options.token or None, True
    router = Router(guest)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(router), sock=listener)
    sudo = _listen_for_sudo(guest) if options.system else None
    gc.freeze()  # what is loaded stays: collections need not look at it
    gc.enable()
    async with server:
        await end.wait()
    if sudo is not None:
        sudo.close()
    await guest.close()


def _listen_for_sudo(guest: Guest) -> SudoServer:
    from hutch_guest.sudo.server import SudoServer

    return SudoServer(guest)
