"""What routes are given: control, the caller, ids that have the form of one.

All of it is `async`, though nothing waits: FastAPI runs plain functions in threads, at some hundred microseconds each.
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path
from starlette.requests import HTTPConnection

from hutch.control.service import Control
from hutch.control.types import Idempotency
from hutch.errors import ExecNotFound, InvalidRequest, NotFound, SandboxNotFound, SnapshotNotFound, TaskNotFound
from hutch.identity import Caller, KeyRing
from hutch.model.ids import Prefix, is_id
from hutch.settings import Settings


async def _control(connection: HTTPConnection) -> Control:
    return cast(Control, connection.app.state.control)


async def _keys(connection: HTTPConnection) -> KeyRing:
    return cast(KeyRing, connection.app.state.keys)


async def _settings(connection: HTTPConnection) -> Settings:
    return cast(Settings, connection.app.state.settings)


async def _org(connection: HTTPConnection) -> str:
    return _caller(connection).org


async def _key_id(connection: HTTPConnection) -> str:
    return _caller(connection).key_id


async def _idempotency(connection: HTTPConnection) -> Idempotency | None:
    key = connection.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidRequest("Idempotency-Key: 1 to 255 printable ASCII characters", field="Idempotency-Key")
    return Idempotency(_caller(connection).key_id, key)


def check_id(text: str, prefix: Prefix, error: type[NotFound], noun: str) -> str:
    """`text`, if it can be an id of this noun at all. Else there is no such thing, and no need to look."""
    if not is_id(text, prefix):
        raise error(f"there is no {noun} {text[:40]!r}")
    return text


async def _sandbox_id(sandbox_id: Annotated[str, Path(description="`sbx_...`")]) -> str:
    return check_id(sandbox_id, "sbx", SandboxNotFound, "sandbox")


async def _exec_id(exec_id: Annotated[str, Path(description="`exe_...`")]) -> str:
    return check_id(exec_id, "exe", ExecNotFound, "exec")


async def _snapshot_id(snapshot_id: Annotated[str, Path(description="`snp_...`")]) -> str:
    return check_id(snapshot_id, "snp", SnapshotNotFound, "snapshot")


async def _task_id(task_id: Annotated[str, Path(description="`tsk_...`")]) -> str:
    return check_id(task_id, "tsk", TaskNotFound, "task")


def _caller(connection: HTTPConnection) -> Caller:
    return cast(Caller, connection.state.caller)


ControlDep = Annotated[Control, Depends(_control)]
KeysDep = Annotated[KeyRing, Depends(_keys)]
SettingsDep = Annotated[Settings, Depends(_settings)]
OrgDep = Annotated[str, Depends(_org)]
KeyIdDep = Annotated[str, Depends(_key_id)]
IdempotencyDep = Annotated[Idempotency | None, Depends(_idempotency)]
SandboxId = Annotated[str, Depends(_sandbox_id)]
ExecId = Annotated[str, Depends(_exec_id)]
SnapshotId = Annotated[str, Depends(_snapshot_id)]
TaskId = Annotated[str, Depends(_task_id)]
