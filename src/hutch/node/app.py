"""The node's API on its Unix socket: routes only, each a few lines over the manager."""

from __future__ import annotations

import asyncio
import errno
import json
import math
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from pydantic import Field, TypeAdapter, ValidationError

from hutch.errors import DiskFull, HutchError, InternalError, InvalidRequest, NotFound
from hutch.model import BootRequest, IdentityAnswer, LlmGrant, Model, NodeInfo
from hutch.model.grant import NodePolicy, SecretGrant
from hutch.node.budgets import BUDGETS
from hutch.node.builds import Builds
from hutch.node.made_api import MadeApi
from hutch.node.orphans import Orphans
from hutch.node.parts import Parts
from hutch.node.sandboxes import Sandboxes
from hutch.node.state_api import StateApi

log = structlog.get_logger("hutch.node")

_BODY_LIMIT = 8 << 20
_LONGEST_WAIT = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Deadline(Model):
    """`PUT /sandboxes/{id}/deadline`."""

    deadline: float = Field(ge=0, allow_inf_nan=False)


class BuildOptions(Model):
    """`POST /templates/{name}/build`."""

    force: bool = False


_POLICY: TypeAdapter[NodePolicy] = TypeAdapter(NodePolicy)
_SECRETS: TypeAdapter[SecretGrant | None] = TypeAdapter(SecretGrant | None)
_GRANT: TypeAdapter[LlmGrant | None] = TypeAdapter(LlmGrant | None)


class NodeApi:
    """The handlers."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes, info: Callable[[], NodeInfo]) -> None:
        self._parts = parts
        self._sandboxes = sandboxes
        self._info = info
        snapshots = parts.settings.template_snapshots
        self._builds = Builds(parts.images, sandboxes.templates, sandboxes.pool, snapshots)

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[problems], client_max_size=_BODY_LIMIT)
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/sandboxes", self.list),
                web.put("/sandboxes/{id}", self.boot),
                web.get("/sandboxes/{id}", self.get),
                web.delete("/sandboxes/{id}", self.destroy),
                web.put("/sandboxes/{id}/deadline", self.set_deadline),
                web.put("/sandboxes/{id}/network", self.set_network),
                web.get("/sandboxes/{id}/egress", self.egress),
                web.put("/sandboxes/{id}/llm", self.set_llm),
                web.put("/llm/budgets", self.set_budgets),
                web.put("/sandboxes/{id}/secrets", self.set_secrets),
                *StateApi(self._parts, self._sandboxes).routes(),
                *MadeApi(self._parts, self._sandboxes.layers, self._sandboxes.maker, self._builds).routes(),
                *Orphans(self._parts, self._sandboxes).routes(),
                web.get("/journal", self.journal),
                web.get("/identity", self.identity_requests),
                web.post("/identity", self.answer_identity),
                web.get("/templates", self.templates),
                web.get("/templates/{name}", self.template),
                web.post("/templates/{name}/build", self.build),
            ]
        )
        return app

    async def health(self, request: web.Request) -> web.Response:
        return _json(self._info())

    async def list(self, request: web.Request) -> web.Response:
        sandboxes = [sandbox.model_dump(mode="json") for sandbox in self._sandboxes.list()]
        return web.json_response({"sandboxes": sandboxes})

    async def boot(self, request: web.Request) -> web.Response:
        body = BootRequest.model_validate_json(await request.read())
        sandbox, created = await self._sandboxes.boot(request.match_info["id"], body)
        return _json(sandbox, status=201 if created else 200)

    async def get(self, request: web.Request) -> web.Response:
        return _json(await self._sandboxes.get(request.match_info["id"]))

    async def destroy(self, request: web.Request) -> web.Response:
        return _json(await self._sandboxes.destroy(request.match_info["id"]))

    async def set_deadline(self, request: web.Request) -> web.Response:
        body = Deadline.model_validate_json(await request.read())
        return _json(await self._sandboxes.set_deadline(request.match_info["id"], body.deadline))

    async def set_network(self, request: web.Request) -> web.Response:
        policy = _POLICY.validate_json(await request.read())
        return _json(await self._sandboxes.set_network(request.match_info["id"], policy))

    async def egress(self, request: web.Request) -> web.Response:
        after, limit = int(_number(request, "after", 0.0, 2.0**62)), int(_number(request, "limit", 100.0, 1000.0))
        wait = _number(request, "wait", 0.0, _LONGEST_WAIT)
        entries = await self._parts.egress_log.read(request.match_info["id"], after, limit, wait)
        return web.json_response({"entries": [entry.model_dump(mode="json") for entry in entries]})

    async def set_llm(self, request: web.Request) -> web.Response:
        grant = _GRANT.validate_json(await request.read())
        return _json(await self._sandboxes.set_llm(request.match_info["id"], grant))

    async def set_budgets(self, request: web.Request) -> web.Response:
        await self._parts.budgets.set(BUDGETS.validate_json(await request.read()))
        return web.Response(status=204)

    async def set_secrets(self, request: web.Request) -> web.Response:
        grant = _SECRETS.validate_json(await request.read())
        return _json(await self._sandboxes.set_secrets(request.match_info["id"], grant))

    async def journal(self, request: web.Request) -> web.Response:
        after = int(_number(request, "after", 0.0, 2.0**62))
        entries, last = await self._parts.journal.read(after, _number(request, "wait", 0.0, _LONGEST_WAIT))
        return web.json_response({"entries": [entry.model_dump(mode="json") for entry in entries], "last": last})

    async def identity_requests(self, request: web.Request) -> web.Response:
        asked = await self._parts.desk.take(_number(request, "wait", 0.0, _LONGEST_WAIT))
        return web.json_response({"requests": [each.model_dump(mode="json") for each in asked]})

    async def answer_identity(self, request: web.Request) -> web.Response:
        self._parts.desk.answer(IdentityAnswer.model_validate_json(await request.read()))
        return web.Response(status=204)

    async def templates(self, request: web.Request) -> web.Response:
        templates = await asyncio.to_thread(self._parts.images.templates)
        known = [self._builds.describe(template).model_dump(mode="json") for template in templates]
        return web.json_response({"templates": known})

    async def template(self, request: web.Request) -> web.Response:
        found = await asyncio.to_thread(self._parts.images.info, request.match_info["name"])
        return _json(self._builds.describe(found))

    async def build(self, request: web.Request) -> web.StreamResponse:
        options = BuildOptions.model_validate_json(await request.read() or b"{}")
        return await self._builds.stream(request, request.match_info["name"], options.force)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves as problem+json."""
    try:
        return await handler(request)
    except HutchError as error:
        return problem_response(error)
    except ValidationError as error:
        return problem_response(_invalid(error))
    except web.HTTPNotFound:
        return problem_response(NotFound(f"no such path: {request.path[:200]}"))
    except web.HTTPException as error:
        return problem_response(InvalidRequest(error.reason), status=error.status)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return problem_response(DiskFull("this node's disk is full"))
        return _unexpected(request, error)
    except Exception as error:
        return _unexpected(request, error)


def _unexpected(request: web.Request, error: Exception) -> web.Response:
    log.error("request failed", method=request.method, path=request.path, exc_info=error)
    return problem_response(InternalError(f"{type(error).__name__} in the node", hint="See the node's log."))


def problem_response(error: HutchError, status: int | None = None) -> web.Response:
    """The error as RFC 9457 wants it."""
    body = error.to_problem() | ({"status": status} if status else {})
    return web.Response(
        status=status or error.http_status, text=json.dumps(body), content_type="application/problem+json"
    )


def _json(model: Model, status: int = 200) -> web.Response:
    return web.Response(status=status, text=model.model_dump_json(), content_type="application/json")


def _number(request: web.Request, name: str, default: float, most: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise InvalidRequest(f"{name} must be a number of 0 or more", field=name, value=text[:64])
    return min(value, most)


def _invalid(error: ValidationError) -> InvalidRequest:
    """The first thing wrong with a body; never its values, which may be keys."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:128] or "body"
    return InvalidRequest(f"{field}: {first['msg']}", field=field)
