"""The application: E2B's paths, each with its handler. Errors leave in E2B's form, whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hutch.control.service import Control
from hutch.e2b import (
    builder,
    contents,
    errors,
    figures,
    lists,
    logs,
    sandboxes,
    secrets,
    snapshots,
    states,
    tags,
    volumes,
)
from hutch.e2b.auditing import recorded
from hutch.e2b.context import Call, Server, call_of
from hutch.e2b.errors import NotOffered
from hutch.errors import HutchError
from hutch.identity import KeyRing
from hutch.settings import Settings

ROOTS = frozenset(
    ("sandboxes", "snapshots", "templates", "volumes", "volumecontent", "secrets", "teams", "v2", "v3", "health")
)
"""First parts of E2B's paths. Hutch's own are others."""

Handler = Callable[[Call], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/sandboxes", sandboxes.create_v1),
    ("POST", "/v2/sandboxes", sandboxes.create_v2),
    ("GET", "/sandboxes", lists.list_v1),
    ("GET", "/v2/sandboxes", lists.list_v2),
    ("GET", "/sandboxes/metrics", figures.metrics_of_many),
    ("GET", "/sandboxes/{id}", sandboxes.get),
    ("DELETE", "/sandboxes/{id}", sandboxes.kill),
    ("POST", "/sandboxes/{id}/connect", states.connect),
    ("POST", "/v2/sandboxes/{id}/connect", states.connect),
    ("POST", "/sandboxes/{id}/resume", states.resume),
    ("POST", "/sandboxes/{id}/timeout", states.set_timeout),
    ("POST", "/sandboxes/{id}/refreshes", states.refresh),
    ("POST", "/sandboxes/{id}/pause", states.pause),
    ("PUT", "/sandboxes/{id}/network", states.update_network),
    ("POST", "/sandboxes/{id}/snapshots", snapshots.take),
    ("POST", "/sandboxes/{id}/fork", snapshots.fork),
    ("GET", "/snapshots", snapshots.list_all),
    ("POST", "/v3/templates", builder.request_build),
    ("POST", "/v2/templates", builder.request_build),
    ("GET", "/templates", builder.list_templates),
    ("GET", "/v2/templates", builder.list_templates),
    ("POST", "/templates/tags", tags.assign),
    ("DELETE", "/templates/tags", tags.remove),
    ("GET", "/templates/aliases/{alias:path}", tags.alias),
    ("GET", "/templates/{id:path}/tags", tags.list_all),
    ("GET", "/templates/{id:path}/files/{hash}", builder.files_link),
    ("GET", "/templates/{id:path}/builds/{build}/status", builder.build_status),
    ("GET", "/templates/{id:path}/builds/{build}/logs", builder.build_logs),
    ("POST", "/v2/templates/{id:path}/builds/{build}", builder.start_build),
    ("DELETE", "/templates/{id:path}", snapshots.delete),
    ("POST", "/volumes", volumes.create),
    ("GET", "/volumes", volumes.list_all),
    ("GET", "/volumes/{id}", volumes.get),
    ("DELETE", "/volumes/{id}", volumes.remove),
    ("POST", "/secrets", secrets.create),
    ("GET", "/secrets", secrets.list_all),
    ("GET", "/secrets/{secret:path}", secrets.get),
    ("POST", "/secrets/{secret:path}", secrets.update),
    ("DELETE", "/secrets/{secret:path}", secrets.delete),
    ("GET", "/sandboxes/{id}/metrics", figures.metrics),
    ("GET", "/sandboxes/{id}/logs", logs.logs_v1),
    ("GET", "/v2/sandboxes/{id}/logs", logs.logs_v2),
)

CONTENTS: tuple[tuple[str, str, contents.Handler], ...] = (
    ("GET", "/volumecontent/{id}/dir", contents.list_dir),
    ("POST", "/volumecontent/{id}/dir", contents.make_dir),
    ("GET", "/volumecontent/{id}/path", contents.stat_path),
    ("PATCH", "/volumecontent/{id}/path", contents.change_path),
    ("DELETE", "/volumecontent/{id}/path", contents.remove_path),
    ("GET", "/volumecontent/{id}/file", contents.read_file),
    ("PUT", "/volumecontent/{id}/file", contents.write_file),
)
"""With a volume's token, and no key."""


def create_e2b_app(settings: Settings, control: Control, keys: Callable[[], KeyRing]) -> Starlette:
    """The app; `control` is started and stopped by others."""
    server = Server(settings, control, keys)
    routes = [Route(path, _endpoint(server, handler), methods=[method]) for method, path, handler in ROUTES]
    for method, path, content in CONTENTS:
        routes.append(Route(path, contents.endpoint(server, content), methods=[method]))
    routes.append(Route("/templates/{id:path}/files/{hash}", _upload(server), methods=["PUT"]))
    routes.append(Route("/health", _health, methods=["GET"]))
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    for root in ("templates", "v2/templates", "v3/templates", "teams"):
        routes.append(Route(f"/{root}", _endpoint(server, _not_offered), methods=every))
        routes.append(Route(f"/{root}/{{rest:path}}", _endpoint(server, _not_offered), methods=every))
    return Starlette(
        routes=routes,
        exception_handlers={
            HutchError: errors.hutch_error,
            ValidationError: errors.invalid,
            HTTPException: errors.http_error,
            Exception: errors.unexpected,
        },
    )


def _endpoint(server: Server, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await recorded(await call_of(server, request), handler)

    return endpoint


def _upload(server: Server) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await builder.take_files(server, request)

    return endpoint


async def _not_offered(call: Call) -> Response:
    """What a drop-in would have, and this one says that it has not."""
    noun = call.request.url.path.strip("/").removeprefix("v2/").removeprefix("v3/").partition("/")[0]
    raise NotOffered(f"this call of E2B's API of {noun} is not offered by Hutch", hint="docs/e2b.md lists what is.")


async def _health(_: Request) -> Response:
    return Response(status_code=204)
