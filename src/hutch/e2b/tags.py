"""Tags and names of templates."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import JSONResponse, Response

from hutch.e2b.bodies import AssignTags, RemoveTags
from hutch.e2b.context import Call
from hutch.e2b.templates import find_source
from hutch.e2b.views import moment


async def assign(call: Call) -> Response:
    """`POST /templates/tags`: let them name the build that `name` or `name:tag` means."""
    body = await call.body(AssignTags)
    build, tags = await call.control.builds.assign_tags(call.org, body.target, body.tags)
    return JSONResponse({"buildID": build.id, "tags": tags}, 201)


async def remove(call: Call) -> Response:
    """`DELETE /templates/tags`."""
    body = await call.body(RemoveTags)
    await call.control.builds.remove_tags(call.org, body.name, body.tags)
    return Response(status_code=204)


async def list_all(call: Call) -> Response:
    """`GET /templates/{id}/tags`."""
    found = await call.control.builds.tags(call.org, str(call.request.path_params["id"]))
    shown = [
        {"tag": each.tag, "buildID": each.build_id, "createdAt": moment(datetime.fromtimestamp(each.created_at, UTC))}
        for each in found
    ]
    return JSONResponse(shown)


async def alias(call: Call) -> Response:
    """`GET /templates/aliases/{alias}`: whether there is a template of this name."""
    wanted = str(call.request.path_params["alias"])
    built = await call.control.builds.exists(call.org, wanted)
    if built is None:
        await find_source(call.control, wanted, call.org)
    return JSONResponse({"templateID": built.id if built is not None else wanted, "public": False})
