"""The builder API: asking for a build, sending what it copies, starting it, and looking at it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hutch.control.audit import token_call
from hutch.control.builds.spec import BuildSpec, Step
from hutch.e2b.bodies import BuildStep, RequestBuild, StartBuild
from hutch.e2b.context import Call, Server
from hutch.e2b.errors import NotOffered
from hutch.e2b.templates import ALIASES
from hutch.e2b.views import log_line, template_view
from hutch.errors import InvalidRequest, NotFound, PayloadTooLarge
from hutch.model import ResourcesOverride
from hutch.store.template_logs import LEVELS

_PAGE = 100
_PORT = re.compile(r'\[ -n "\$\(ss -Htuln sport = :(\d{1,5})\)" \]')
"""The client's `wait_for_port`. In gVisor it would be satisfied by a socket that is bound and does not listen yet."""
_LISTENS = '[ -n "$(ss -Htln state listening sport = :{port}; ss -Huln sport = :{port})" ]'


async def request_build(call: Call) -> Response:
    """`POST /v3/templates`: a build that waits to be started, and its template."""
    body = await call.body(RequestBuild)
    name = body.name or body.alias
    if name is None:
        raise InvalidRequest("name: the template needs one")
    disk = max(body.min_free_disk_mb, 64) if body.min_free_disk_mb else None
    wanted = ResourcesOverride(cpus=body.cpu_count, memory_mib=body.memory_mb, disk_mib=disk)
    template, build = await call.control.builds.request(call.org, name, body.tags, wanted)
    said = {
        "templateID": template.id,
        "buildID": build.id,
        "public": False,
        "names": [template.name],
        "tags": build.tags,
        "aliases": [template.name],
    }
    return JSONResponse(said, 202)


async def files_link(call: Call) -> Response:
    """`GET /templates/{id}/files/{hash}`: whether the files are here, and where to send them if not (or anew)."""
    template = await call.control.builds.template(call.org, str(call.request.path_params["id"]))
    hash = _hash(call.request)
    uploads = call.control.builds.uploads
    query = uploads.query(call.org, template.id, hash)
    url = f"{_base(call)}/templates/{template.id}/files/{quote(hash)}?{query}"
    return JSONResponse({"present": await uploads.present(call.org, hash), "url": url}, 201)


async def take_files(server: Server, request: Request) -> Response:
    """`PUT /templates/{id}/files/{hash}`: by the link's signature alone, as clients send no key there."""
    hash, id = _hash(request), str(request.path_params["id"])
    row = await server.control.store.templates.by_id(id)
    if row is None:
        raise NotFound(f"there is no template {id[:64]!r}")
    query, uploads = request.query_params, server.control.builds.uploads
    uploads.check(row.org, row.id, hash, query.get("expires", ""), query.get("signature", ""))
    most = server.settings.max_upload
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise PayloadTooLarge(f"{declared} bytes; at most {most} are taken")
    audit = server.control.store.audit
    await audit.record(token_call(row.org, "template", row.id, "PUT", request.url.path))
    request.scope["state"]["unbounded_body"] = True
    size = await uploads.take_in(row.org, hash, request.stream())
    await audit.record(token_call(row.org, "template", row.id, "PUT", request.url.path, f"sent {size} bytes"))
    return Response(status_code=200)


async def start_build(call: Call) -> Response:
    """`POST /v2/templates/{id}/builds/{build}`."""
    body = await call.body(StartBuild)
    login = _login(body.from_image_registry)
    template = body.from_template
    spec = BuildSpec(
        image=body.from_image,
        template=ALIASES.get(template, template) if template is not None else None,
        steps=[_step(each) for each in body.steps],
        start=body.start_cmd or None,
        ready=_ready(body.ready_cmd) if body.ready_cmd else None,
        force=body.force,
    )
    params = call.request.path_params
    await call.control.builds.start(call.org, str(params["id"]), str(params["build"]), spec, login)
    return Response(status_code=202)


async def build_status(call: Call) -> Response:
    """`GET /templates/{id}/builds/{build}/status`: how it is, and its log from a line on."""
    params = call.request.path_params
    offset, limit, level = _number(call, "logsOffset", 0), min(_number(call, "limit", _PAGE), _PAGE), _level(call)
    status = await call.control.builds.status(call.org, str(params["id"]), str(params["build"]), offset, limit, level)
    said: dict[str, Any] = {
        "templateID": status.build.template_id,
        "buildID": status.build.id,
        "status": status.build.state,
        "logs": [],
        "logEntries": [log_line(line) for line in status.lines],
    }
    if (reason := status.build.reason) is not None:
        said["reason"] = {"message": reason["message"], "logEntries": [log_line(line) for line in status.reason_lines]}
        if reason.get("step"):
            said["reason"]["step"] = reason["step"]
    return JSONResponse(said)


async def build_logs(call: Call) -> Response:
    """`GET /templates/{id}/builds/{build}/logs`."""
    params = call.request.path_params
    cursor, limit = _number(call, "cursor", 0), min(_number(call, "limit", _PAGE), _PAGE)
    builds = call.control.builds
    status = await builds.status(call.org, str(params["id"]), str(params["build"]), cursor, limit, _level(call))
    return JSONResponse({"logs": [log_line(line) for line in status.lines]})


async def list_templates(call: Call) -> Response:
    """`GET /templates`, `GET /v2/templates`: the organisation's own, with their newest builds."""
    known = {each.name: each for each in await call.control.templates(org=call.org)}
    found = []
    for template, builds in await call.control.builds.all(call.org):
        newest = next((each for each in builds if each.state == "ready"), builds[0] if builds else None)
        if newest is not None:
            found.append(template_view(template, newest, len(builds), known.get(newest.made or "")))
    return JSONResponse(found)


def _ready(command: str) -> str:
    match = _PORT.fullmatch(command)
    return _LISTENS.format(port=match[1]) if match is not None else command


def _step(body: BuildStep) -> Step:
    """Raises pydantic's `ValidationError`, also for what is no kind of step."""
    return Step.model_validate(
        {"type": body.type.upper(), "args": body.args, "files": body.files_hash, "force": body.force}
    )


def _login(registry: dict[str, Any]) -> tuple[str, str] | None:
    """Raises `NotOffered` for those of cloud providers."""
    if not registry:
        return None
    name, password = registry.get("username"), registry.get("password")
    if registry.get("type") != "registry":
        hint = "Give `from_image` a user name and a password that the registry takes."
        raise NotOffered("logins of cloud providers are not offered by Hutch", hint=hint)
    if not (isinstance(name, str) and isinstance(password, str) and name and len(name) + len(password) < 1 << 16):
        raise InvalidRequest("fromImageRegistry: a user name and a password, at most 64 KiB")
    return name, password


def _hash(request: Request) -> str:
    hash = str(request.path_params["hash"])
    if not (hash.isascii() and hash.isalnum() and len(hash) <= 128):
        raise InvalidRequest("the hash of files has letters and digits, at most 128")
    return hash


def _base(call: Call) -> str:
    """How the client has reached us."""
    return str(call.request.base_url).rstrip("/")


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.query_params.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest(f"{name}: a number from 0 on")
    return int(text)


def _level(call: Call) -> int:
    text = call.request.query_params.get("level") or LEVELS[0]
    if text not in LEVELS:
        raise InvalidRequest(f"level: one of {', '.join(LEVELS)}")
    return LEVELS.index(text)
