"""The guest's side of `sudo`: starts commands on the files, in the directory and with the environment of the caller.

One request a connection. The caller sends a length (4 bytes), that many bytes of JSON {"argv", "env", "cwd", "user"}
and its three standard files; then one byte for each signal it gets. The answer is JSON: {"exit_code"} or {"error"}.
A caller that goes away takes its command with it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import Any

from hutch_guest import accounts
from hutch_guest.errors import GuestError, InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.processes.environment import check
from hutch_guest.processes.pipes import settle
from hutch_guest.processes.spawn import Program

ADDRESS = "\0hutch-sudo"
"""An abstract socket: there is no file that could be taken away or stood in for."""

RULE = "/etc/sudoers.d/hutch"
"""The file that lets the template's user be root, and whom its first word names. Root may remove it, and that is then
the end of it."""

SCM_CREDENTIALS = 2

_CONTROL = 2 * socket.CMSG_SPACE(3 * 4)
_MAX_REQUEST = 4 << 20
_TIMEOUT = 10.0
_MOST_NAME = 64


class SudoServer:
    """Listens for as long as the guest lives."""

    def __init__(self, guest: Guest, address: str = ADDRESS, rule: str = RULE) -> None:
        self._guest = guest
        self._rule = rule
        self._loop = asyncio.get_running_loop()
        self._callers: set[asyncio.Task[None]] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(address)
        self._listener.listen(64)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            task = self._loop.create_task(self._serve(connection))
            self._callers.add(task)
            task.add_done_callback(self._callers.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            answer: dict[str, object]
            try:
                answer = {"exit_code": await self._run(connection)}
            except GuestError as error:
                answer = {"error": error.message}
            except (OSError, ValueError, TimeoutError) as error:
                answer = {"error": str(error) or type(error).__name__}
            with contextlib.suppress(OSError):
                await self._loop.sock_sendall(connection, json.dumps(answer).encode())

    async def _run(self, connection: socket.socket) -> int:
        files: list[int] = []
        try:
            async with asyncio.timeout(_TIMEOUT):
                caller, request = await _receive(connection, files)
            self._authorize(caller)
            pid, ended = await self._guest.manager.start_stranger(_program(request), (files[0], files[1], files[2]))
        finally:
            for fd in files:
                os.close(fd)
        relay = self._loop.create_task(_relay_signals(connection, pid))
        try:
            return os.waitstatus_to_exitcode(await ended)
        finally:
            relay.cancel()

    def _authorize(self, uid: int) -> None:
        name = accounts.user_name(uid)
        if uid == 0 or (named := self._named()) == name or (named and uid == self._guest.account(None).uid):
            return
        raise InvalidRequest(f"{name} may not run commands as another user")

    def _named(self) -> str:
        """Whom the rule names; nobody where there is none."""
        try:
            with open(self._rule, encoding="utf-8", errors="replace") as rule:
                return rule.read(_MOST_NAME).partition(" ")[0].strip() or "user"
        except OSError:
            return ""


async def _receive(connection: socket.socket, files: list[int]) -> tuple[int, dict[str, Any]]:
    """The caller's uid and request; descriptors that come with it are put into `files`, whatever else is wrong.

    The uid is that of the first byte's sender, vouched for by the kernel. (SO_PEERCRED is of no use: gVisor answers
    our own.)
    """
    loop = asyncio.get_running_loop()
    data = b""
    uids: list[int] = []
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        if len(data) >= 4 and int.from_bytes(data[:4], "big") > _MAX_REQUEST:
            raise InvalidRequest("the command line and environment are too long")
        chunk = await _receive_chunk(loop, connection, files, uids)
        if not chunk:
            raise InvalidRequest("incomplete request")
        data += chunk
    request = json.loads(data[4:])
    if not isinstance(request, dict) or len(files) != 3 or not uids:
        raise InvalidRequest("malformed request")
    return uids[0], request


async def _receive_chunk(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, files: list[int], uids: list[int]
) -> bytes:
    while True:
        try:
            data, ancillary, _, _ = connection.recvmsg(1 << 16, _CONTROL, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _readable(loop, connection)
            continue
        for level, kind, payload in ancillary:
            numbers = array.array("i", payload[: len(payload) - len(payload) % 4])
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.extend(numbers)
            elif (level, kind) == (socket.SOL_SOCKET, SCM_CREDENTIALS) and len(numbers) == 3:
                uids.append(numbers[1])
        return data


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _program(request: dict[str, Any]) -> Program:
    argv, cwd, user = request.get("argv"), request.get("cwd"), request.get("user")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise InvalidRequest("argv is not a list of strings")
    if not isinstance(cwd, str) or not cwd.startswith("/") or not isinstance(user, str):
        raise InvalidRequest("malformed request")
    return Program(argv, check(request.get("env")), cwd, accounts.lookup(user))


async def _relay_signals(connection: socket.socket, pid: int) -> None:
    """Pass the caller's signals on to the command's process group; its end is the command's."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            numbers = await loop.sock_recv(connection, 64)
        except OSError:
            numbers = b""
        for number in numbers or bytes([signal.SIGKILL]):
            with contextlib.suppress(OSError, ValueError):
                os.killpg(pid, number)
        if not numbers:
            return
