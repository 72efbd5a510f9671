"""Making, finding and ending sandboxes."""

from __future__ import annotations

import time

from starlette.responses import JSONResponse, Response

from hutch.e2b.bodies import NewSandbox
from hutch.e2b.context import Call, gone
from hutch.e2b.network import header_rules, policy_of
from hutch.e2b.options import Options, options_of
from hutch.e2b.templates import find_source
from hutch.e2b.views import detail, handle
from hutch.errors import IdempotencyConflict, InvalidRequest
from hutch.model import CreateSandbox
from hutch.store.e2b import E2bRow
from hutch.store.engine import Transaction


async def create_v2(call: Call) -> Response:
    """`POST /v2/sandboxes`: always secured."""
    body = await call.body(NewSandbox)
    return await _create(call, body, options_of(body, secure=True))


async def create_v1(call: Call) -> Response:
    """`POST /sandboxes`: secured when it is asked for."""
    body = await call.body(NewSandbox)
    return await _create(call, body, options_of(body, secure=bool(body.secure)))


async def _create(call: Call, body: NewSandbox, options: Options) -> Response:
    check_timeout(call, body.timeout)
    source = await find_source(call.control, body.template_id, call.org)
    start: dict[str, object] = {"from": source.snapshot} if source.snapshot else {"template": source.template}
    request = CreateSandbox.model_validate(
        start
        | ({"volumes": [mount.model_dump() for mount in body.volume_mounts]} if body.volume_mounts else {})
        | {
            "lifetime": call.server.settings.max_lifetime,
            "labels": body.metadata,
            "env": {"E2B_SANDBOX": "true", "E2B_TEMPLATE_ID": body.template_id} | body.env_vars,
            "network": policy_of(body.network, body.allow_internet_access),
        }
    )

    made: list[E2bRow] = []

    async def also(connection: Transaction, sandbox_id: str) -> None:
        end_at = time.time() + body.timeout
        row = E2bRow(sandbox_id, body.timeout, end_at, options.model_dump(mode="json", exclude_defaults=False))
        await call.control.store.e2b.insert(connection, row)
        made.append(row)

    sandbox = await call.control.create(
        request,
        by=call.caller.key_id,
        org=call.org,
        idempotency=call.idempotency,
        also=also,
        rules=header_rules(body.network, options.iam),
    )
    row = next((row for row in made if row.sandbox_id == sandbox.id), None) or await call.extras(sandbox.id)
    if row is None:
        raise gone(sandbox.id)  # ended, and forgotten: the key was used long ago
    if Options.of(row).digest != options.digest:
        raise IdempotencyConflict("this Idempotency-Key was used for another request")
    return JSONResponse(handle(sandbox, row, call.control.ports, call.domain), 201)


async def get(call: Call) -> Response:
    """`GET /sandboxes/{id}`."""
    sandbox = await call.living()
    row = await call.extras(sandbox.id)
    rules = await call.control.header_rules(sandbox.id, org=call.org)
    return JSONResponse(detail(sandbox, row, rules, call.control.ports, call.domain))


async def kill(call: Call) -> Response:
    """`DELETE /sandboxes/{id}`."""
    sandbox = await call.living()
    await call.control.delete(sandbox.id, org=call.org)
    return Response(status_code=204)


def check_timeout(call: Call, seconds: float) -> None:
    """Raises `InvalidRequest`."""
    most = call.server.settings.max_lifetime
    if seconds < 0:
        raise InvalidRequest("timeout: at least 0 seconds")
    if seconds > most:
        raise InvalidRequest(f"timeout: at most {most:g} seconds", hint="HUTCH_MAX_LIFETIME is the limit.")
