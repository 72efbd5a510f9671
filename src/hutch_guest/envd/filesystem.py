"""`filesystem.Filesystem`: E2B's calls on files and directories."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from hutch_guest.accounts import Account
from hutch_guest.envd.connect import (
    RpcError,
    caller,
    envelope,
    field,
    read_message,
    stream_response,
    text,
)
from hutch_guest.errors import AlreadyExists, FileMissing, GuestError, InvalidPath, InvalidRequest, from_os_error
from hutch_guest.files.entries import Entry
from hutch_guest.files.paths import make_directories, remove, resolve
from hutch_guest.files.watch import DirectoryWatch
from hutch_guest.files.work import in_thread
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, json_response

MAX_ENTRIES = 200_000
_KEEPALIVE = 90.0


async def call(guest: Guest, request: Request) -> Response:
    """Any call of the service."""
    method = _METHODS.get(request.params[0])
    if method is None:
        raise RpcError("unimplemented", f"no such method: {request.params[0][:64]}")
    return await method(guest, caller(guest, request), await read_message(request), request)


async def _stat(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    return json_response({"entry": Entry(resolve(text(message, "path"), account)).to_envd()})


async def _make_dir(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    path = resolve(text(message, "path"), account)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        await in_thread(make_directories, path, account)
        return json_response({"entry": Entry(path).to_envd()})
    if stat.S_ISDIR(mode):
        raise AlreadyExists(f"directory already exists: {path}")
    raise InvalidPath(f"path already exists but it is not a directory: {path}")


async def _move(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    source = resolve(text(message, "source"), account)
    destination = resolve(text(message, "destination"), account)
    await in_thread(_rename, source, destination, account)
    return json_response({"entry": Entry(destination).to_envd()})


def _rename(source: str, destination: str, account: Account) -> None:
    if not os.path.lexists(source):
        raise FileMissing(f"source file not found: {source}")
    make_directories(os.path.dirname(destination), account)
    try:
        os.rename(source, destination)
    except OSError as error:
        raise from_os_error(error, destination) from error


async def _list_dir(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    path = resolve(text(message, "path"), account)
    depth = field(message, "depth") or 1
    if not isinstance(depth, int) or not 0 < depth < 2**32:
        raise InvalidRequest("depth is not a positive number")
    return json_response({"entries": await in_thread(list_directory, path, depth)})


def list_directory(path: str, depth: int) -> list[dict[str, Any]]:
    """Entries below a directory, in lexical order, each directory followed by what is in it; links not followed."""
    if not os.path.isdir(path):
        Entry(path)  # raises when there is nothing at all
        raise InvalidPath(f"path is not a directory: {path}")
    found: list[dict[str, Any]] = []
    _list_into(found, path, depth)
    return found


def _list_into(found: list[dict[str, Any]], path: str, depth: int) -> None:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        if found:
            return  # gone meanwhile, or not to be read
        raise from_os_error(error, path) from error
    for name in names:
        try:
            entry = Entry(os.path.join(path, name))
        except GuestError:
            continue
        found.append(entry.to_envd())
        if len(found) > MAX_ENTRIES:
            raise RpcError("resource_exhausted", f"more than {MAX_ENTRIES} entries")
        if depth > 1 and stat.S_ISDIR(entry.stat.st_mode):
            _list_into(found, entry.path, depth - 1)


async def _remove(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    path = resolve(text(message, "path"), account)
    if path == "/":
        raise InvalidPath("the root directory cannot be removed")
    await in_thread(remove, path)
    return json_response({})


def _watch(account: Account, message: dict[str, Any]) -> DirectoryWatch:
    return DirectoryWatch(
        resolve(text(message, "path"), account),
        recursive=bool(field(message, "recursive")),
        entries=bool(field(message, "includeEntry")),
        network=bool(field(message, "allowNetworkMounts")),
    )


async def _watch_dir(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    interval = request.headers.get("keepalive-ping-interval", "")
    keepalive = float(interval) if interval.isascii() and interval.isdigit() and int(interval) else _KEEPALIVE
    watch = _watch(account, message)

    async def events() -> AsyncGenerator[bytes, None]:
        with watch:
            yield envelope({"start": {}})
            while True:
                batch = await watch.next(keepalive)
                yield b"".join(envelope({"filesystem": one}) for one in batch) or envelope({"keepalive": {}})

    return stream_response(events())


async def _create_watcher(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    return json_response({"watcherId": guest.watchers.add(_watch(account, message))})


async def _get_events(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    watch = guest.watchers.get(text(message, "watcherId"))
    if watch is None:
        raise RpcError("not_found", f"watcher with id {text(message, 'watcherId')[:64]} not found")
    return json_response({"events": watch.drain()})


async def _remove_watcher(guest: Guest, account: Account, message: dict[str, Any], request: Request) -> Response:
    if not guest.watchers.remove(text(message, "watcherId")):
        raise RpcError("not_found", f"watcher with id {text(message, 'watcherId')[:64]} not found")
    return json_response({})


_METHODS: dict[str, Callable[[Guest, Account, dict[str, Any], Request], Awaitable[Response]]] = {
    "Stat": _stat,
    "MakeDir": _make_dir,
    "Move": _move,
    "ListDir": _list_dir,
    "Remove": _remove,
    "WatchDir": _watch_dir,
    "CreateWatcher": _create_watcher,
    "GetWatcherEvents": _get_events,
    "RemoveWatcher": _remove_watcher,
}
