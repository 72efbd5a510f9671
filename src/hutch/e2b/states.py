"""Time-outs, pause, and coming back."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from hutch.e2b.bodies import Connect, NetworkUpdate, PauseSandbox, Refresh, Timeout
from hutch.e2b.context import Call, gone
from hutch.e2b.errors import NotOffered, PausedAlready
from hutch.e2b.network import header_rules, policy_of
from hutch.e2b.sandboxes import check_timeout
from hutch.e2b.views import asleep, handle, options_of_row
from hutch.errors import Conflict, InvalidRequest, SandboxNotRunning
from hutch.model import Pause, Sandbox, SnapshotKind
from hutch.store.e2b import E2bRow


async def connect(call: Call) -> Response:
    """`POST /sandboxes/{id}/connect`: as it is and no shorter when it runs (200), else resumed (201)."""
    body = await call.body(Connect)
    sandbox = await call.living(settled=True)
    if asleep(sandbox):
        return await _resume(call, sandbox, body)
    check_timeout(call, body.timeout)
    row = await call.extras(sandbox.id)
    if row is not None:
        await call.control.timeouts.prolong(row, body.timeout)
        sandbox = await call.living(settled=True)
        if asleep(sandbox):  # its pause had begun before that
            return await _resume(call, sandbox, body)
    return JSONResponse(handle(sandbox, row, call.control.ports, call.domain), 200)


async def resume(call: Call) -> Response:
    """`POST /sandboxes/{id}/resume`, of older clients."""
    body = await call.body(Connect)
    sandbox = await call.living(settled=True)
    if not asleep(sandbox):
        raise Conflict(f"sandbox {call.request.path_params['id'][:64]!r} is already running")
    return await _resume(call, sandbox, body)


async def _resume(call: Call, sandbox: Sandbox, body: Connect) -> Response:
    check_timeout(call, body.timeout)
    row = await call.extras(sandbox.id)
    if row is not None:
        if body.auto_pause is not None:
            await call.control.store.e2b.change(row.sandbox_id, options=row.options | {"auto_pause": body.auto_pause})
        # Before it runs: the time-outs' own look gives what it finds running this much, too.
        await call.control.timeouts.set(row.sandbox_id, body.timeout)
    try:
        if not body.memory:  # only its files are wanted: it is booted from them
            await call.control.pause(sandbox.id, Pause(mode=SnapshotKind.DISK), by=call.caller.key_id, org=call.org)
        sandbox = await call.control.resume(sandbox.id, org=call.org)
    except SandboxNotRunning:
        raise gone(str(call.request.path_params["id"])) from None
    if row is not None:
        await call.control.timeouts.set(row.sandbox_id, body.timeout)
    return JSONResponse(handle(sandbox, row, call.control.ports, call.domain), 201)


async def set_timeout(call: Call) -> Response:
    """`POST /sandboxes/{id}/timeout`: from now on, also shorter."""
    body = await call.body(Timeout)
    check_timeout(call, body.timeout)
    await call.control.timeouts.set((await _running(call)).sandbox_id, body.timeout)
    return Response(status_code=204)


async def refresh(call: Call) -> Response:
    """`POST /sandboxes/{id}/refreshes`: no earlier than in so many seconds."""
    body = await call.body(Refresh)
    check_timeout(call, body.duration)
    await call.control.timeouts.prolong(await _running(call), body.duration)
    return Response(status_code=204)


async def pause(call: Call) -> Response:
    """`POST /sandboxes/{id}/pause`."""
    body = await call.body(PauseSandbox)
    sandbox = await call.living(settled=True)
    if asleep(sandbox):
        raise PausedAlready(f"sandbox {call.request.path_params['id'][:64]!r} is paused already")
    try:
        kind = SnapshotKind.FULL if body.memory else SnapshotKind.DISK
        await call.control.pause(sandbox.id, Pause(mode=kind), by=call.caller.key_id, org=call.org)
    except SandboxNotRunning:
        raise gone(str(call.request.path_params["id"])) from None
    except Conflict as error:  # a 409 would be taken for `it was paused before`
        raise InvalidRequest(error.detail, hint=error.hint) from error
    await call.control.store.e2b.change(sandbox.id, end_at=None)
    return Response(status_code=204)


async def update_network(call: Call) -> Response:
    """`PUT /sandboxes/{id}/network`: all of what it may reach, anew."""
    body = await call.body(NetworkUpdate)
    sandbox = await call.living()
    row = await call.extras(sandbox.id)
    policy = policy_of(body, body.allow_internet_access)
    rules = header_rules(body, options_of_row(row).iam)
    await call.control.set_network(sandbox.id, policy, org=call.org, rules=rules)
    if row is not None:
        before = row.options.get("network") or {}
        kept = {
            name: before[name] for name in ("allowPublicTraffic", "maskRequestHost", "httpsPorts") if name in before
        }
        unkept = {"allow_internet_access", "rules"}
        told = body.model_dump(by_alias=True, exclude_defaults=True, mode="json", exclude=unkept)
        changed = {"network": kept | told or None, "allow_internet_access": body.allow_internet_access}
        await call.control.store.e2b.change(row.sandbox_id, options=row.options | changed)
    return Response(status_code=204)


async def _running(call: Call) -> E2bRow:
    """The time-out of a sandbox that runs. Raises `SandboxNotFound` for a paused one, as E2B does."""
    sandbox = await call.living(settled=True)
    if asleep(sandbox):
        raise gone(str(call.request.path_params["id"]))
    row = await call.extras(sandbox.id)
    if row is None:
        raise NotOffered("this sandbox was not made through E2B's API: it has a lifetime, and no time-out to be moved")
    return row
