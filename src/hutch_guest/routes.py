"""Which function answers which request. Modules are imported when they are first needed: the boot path is short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module

from hutch_guest.access import check_token
from hutch_guest.errors import GuestError, InvalidRequest, MethodNotAllowed, NotFound, Unauthorized
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Disconnected, Request, Response, json_response
from hutch_guest.log import log_exception

Endpoint = Callable[[Guest, Request], Awaitable[Response]]

_STATIC = {
    ("GET", "/hutch/ready"): "api.system:ready",
    ("POST", "/hutch/prepare"): "api.system:prepare",
    ("POST", "/hutch/thaw"): "api.thaw:thaw",
    ("POST", "/hutch/token"): "api.token:renew",
    ("POST", "/hutch/secrets"): "api.secrets:take",
    ("GET", "/hutch/stats"): "api.system:stats",
    ("POST", "/hutch/limit"): "api.limit:limit",
    ("POST", "/hutch/connect"): "api.connect:connect",
    ("POST", "/hutch/volumes"): "api.volumes:attach",
    ("GET", "/hutch/processes"): "api.processes:list_all",
    ("POST", "/hutch/processes"): "api.processes:start",
    ("GET", "/hutch/files"): "api.files:download",
    ("PUT", "/hutch/files"): "api.files:upload",
    ("POST", "/hutch/extract"): "api.files:extract",
    ("POST", "/hutch/collect"): "api.files:collect",
    ("GET", "/hutch/changes"): "api.changes:list_all",
    ("GET", "/hutch/changes/pack"): "api.changes:pack",
    ("POST", "/hutch/changes/read"): "api.changes:read",
    ("POST", "/hutch/changes/restore"): "api.changes:restore",
    ("POST", "/hutch/changes/release"): "api.changes:release",
}
_PROCESS = {
    ("GET", ""): "api.processes:get",
    ("DELETE", ""): "api.processes:delete",
    ("GET", "output"): "api.processes:output",
    ("POST", "ack"): "api.processes:ack",
    ("POST", "stdin"): "api.processes:stdin",
    ("POST", "signal"): "api.processes:send_signal",
    ("POST", "resize"): "api.processes:resize",
}
_ENVD = {
    ("GET", "/health"): "envd.rest:health",
    ("GET", "/metrics"): "envd.rest:metrics",
    ("GET", "/envs"): "envd.rest:envs",
    ("POST", "/init"): "envd.rest:init",
    ("GET", "/files"): "envd.files:download",
    ("POST", "/files"): "envd.files:upload",
    ("POST", "/files/compose"): "envd.files:compose",
}
_SERVICES = {
    "/process.Process/": "envd.process",
    "/filesystem.Filesystem/": "envd.filesystem",
}
_OPEN = frozenset({"/health", "/hutch/ready", "/hutch/prepare", "/files"})
"""Paths that check for themselves who may call them, or that anybody may call."""

_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
_PREFLIGHT = _CORS | {
    "Access-Control-Allow-Methods": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "7200",
}
_loaded: dict[str, Endpoint] = {}


def _load(name: str) -> Endpoint:
    endpoint = _loaded.get(name)
    if endpoint is None:
        module, _, attribute = name.partition(":")
        endpoint = _loaded[name] = getattr(import_module(f"hutch_guest.{module}"), attribute)
    return endpoint


def _find(request: Request) -> str:
    """The name of the function that answers, `module:function`."""
    key = (request.method, request.path)
    name = _STATIC.get(key) or _ENVD.get(key)
    if name is not None:
        return name
    if request.path.startswith("/hutch/processes/"):
        id, _, verb = request.path[len("/hutch/processes/") :].partition("/")
        request.params = [id]
        if id and (name := _PROCESS.get((request.method, verb))):
            return name
    elif request.method == "POST":
        for prefix, module in _SERVICES.items():
            if request.path.startswith(prefix):
                request.params = [request.path[len(prefix) :]]
                return f"{module}:call"
    if any(path == request.path for _, path in (*_STATIC, *_ENVD)):
        raise MethodNotAllowed(f"{request.method} is not possible here")
    raise NotFound(f"no such call: {request.method} {request.path[:200]}")


class Router:
    """Finds the function for a request, checks the caller, and turns errors into answers."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    async def __call__(self, request: Request) -> Response:
        if request.path.startswith("/hutch/"):
            return await self._answer(request)
        if request.method == "OPTIONS":
            return Response(204, headers=dict(_PREFLIGHT))
        response = await self._answer(request)
        response.headers.update(_CORS)
        return response

    async def _answer(self, request: Request) -> Response:
        try:
            name = _find(request)
            if request.path not in _OPEN:
                if not self._guest.prepared:
                    raise Unauthorized("not prepared yet")
                check_token(request, self._guest.tokens())
            return await _load(name)(self._guest, request)
        except GuestError as error:
            return error_response(request, error)
        except Disconnected:
            return error_response(request, InvalidRequest("the connection was cut in the middle of the request"))
        except Exception as error:
            log_exception(error)
            return error_response(request, GuestError(f"internal error: {type(error).__name__}"))


def error_response(request: Request, error: GuestError) -> Response:
    """The error in the form of the surface that was called: ours, Connect's, or envd's plain one."""
    if request.path.startswith("/hutch/"):
        return json_response(error.to_json(), error.status)
    if request.path.startswith(tuple(_SERVICES)):
        from hutch_guest.envd.connect import error_response as connect_error

        return connect_error(request, error)
    return json_response({"code": error.status, "message": error.message}, error.status)
