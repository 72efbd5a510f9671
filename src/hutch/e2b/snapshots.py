"""Snapshots and forks."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from hutch.e2b.bodies import ForkSandbox, TakeSnapshot
from hutch.e2b.context import Call, gone
from hutch.e2b.lists import NEXT, page_size
from hutch.e2b.sandboxes import check_timeout
from hutch.e2b.templates import named, without_tag
from hutch.e2b.views import handle, options_of_row, snapshot_view
from hutch.errors import HutchError, InvalidRequest, SandboxNotRunning, SnapshotNotFound
from hutch.model import CreateSnapshot, Fork, Sandbox, Snapshot, SnapshotKind, SnapshotReason, is_id
from hutch.model.e2b import hutch_sandbox_id
from hutch.store.e2b import E2bRow
from hutch.store.engine import Transaction

_IDENTITY = ("HUTCH_SANDBOX_ID", "E2B_SANDBOX_ID")
"""The guest's own to say, in each sandbox."""


async def take(call: Call) -> Response:
    """`POST /sandboxes/{id}/snapshots`: the sandbox goes on."""
    body = await call.body(TakeSnapshot)
    sandbox = await call.living()
    try:
        taken = await call.control.take_snapshot(
            sandbox.id,
            CreateSnapshot(name=body.name, mode=SnapshotKind.FULL if body.memory else SnapshotKind.DISK),
            by=call.caller.key_id,
            org=call.org,
            idempotency=call.idempotency,
        )
    except SandboxNotRunning:
        raise gone(str(call.request.path_params["id"])) from None
    return JSONResponse(snapshot_view(taken), 201)


async def list_all(call: Call) -> Response:
    """`GET /snapshots`, newest first: those that somebody has asked for."""
    query = call.request.query_params
    found = [each for each in await call.control.all_snapshots(org=call.org) if each.reason == SnapshotReason.MANUAL]
    if sandbox := query.get("sandboxID"):
        found = [each for each in found if each.sandbox_id == hutch_sandbox_id(sandbox)]
    if name := query.get("name"):
        found = [each for each in found if each.name and without_tag(each.name) == without_tag(name)]
    found.reverse()
    if token := query.get("nextToken"):
        found = _after(found, token)
    limit = page_size(call)
    more = {NEXT: _token(found[limit - 1])} if len(found) > limit else {}
    return JSONResponse([snapshot_view(each) for each in found[:limit]], headers=more)


async def delete(call: Call) -> Response:
    """`DELETE /templates/{id}`: what E2B's clients call for snapshots as well."""
    wanted = str(call.request.path_params["id"])
    id = wanted
    if await call.control.builds.remove(call.org, wanted):
        return Response(status_code=204)
    if not is_id(wanted, "snp"):
        snapshot = named(await call.control.all_snapshots(org=call.org), wanted)
        if snapshot is None:
            raise SnapshotNotFound(f"template {wanted[:128]!r} not found")
        id = snapshot.id
    await call.control.delete_snapshot(id, org=call.org)
    return Response(status_code=204)


async def fork(call: Call) -> Response:
    """`POST /sandboxes/{id}/fork`: all of them, or none and the error. Unlike Hutch's own forks, they keep its header
    rules, and those of a running sandbox its environment."""
    body = await call.body(ForkSandbox)
    check_timeout(call, body.timeout)
    parent = await call.living()
    row = await call.extras(parent.id)
    env = await call.control.environment(parent.id, org=call.org)
    options = options_of_row(row).model_dump(mode="json")
    rules = await call.control.header_rules(parent.id, org=call.org)
    new: set[str] = set()

    async def also(connection: Transaction, sandbox_id: str) -> None:
        new.add(sandbox_id)
        extras = E2bRow(sandbox_id, body.timeout, time.time() + body.timeout, options)
        await call.control.store.e2b.insert(connection, extras)

    try:
        made = await call.control.fork(
            parent.id,
            Fork(count=body.count),
            by=call.caller.key_id,
            org=call.org,
            idempotency=call.idempotency,
            also=also,
            rules=rules,
        )
    except SandboxNotRunning:
        raise gone(str(call.request.path_params["id"])) from None
    if env is not None:  # those that an earlier call of the same key has made have it
        told = {name: value for name, value in env.items() if name not in _IDENTITY}
        await _give(call, [each for each in made if each.id in new], told)
    shown = [handle(each, await call.extras(each.id), call.control.ports, call.domain) for each in made]
    return JSONResponse([{"sandbox": each} for each in shown], 201)


async def _give(call: Call, made: Sequence[Sandbox], env: dict[str, str]) -> None:
    """Give the forks this environment, or end them all."""
    try:
        await asyncio.gather(*(call.control.set_environment(each.id, env, org=call.org) for each in made))
    except HutchError:
        for each in made:
            await call.control.delete(each.id, org=call.org)
        raise


def _token(snapshot: Snapshot) -> str:
    return base64.urlsafe_b64encode(snapshot.id.encode()).decode().rstrip("=")


def _after(found: list[Snapshot], token: str) -> list[Snapshot]:
    try:
        id = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError as error:
        raise InvalidRequest("nextToken: not one of ours") from error
    at = next((number for number, each in enumerate(found) if each.id == id), None)
    if at is None:
        raise InvalidRequest("nextToken: its snapshot is gone; begin again")
    return found[at + 1 :]
