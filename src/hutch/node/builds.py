"""A template build as a stream: one JSON object a line."""

from __future__ import annotations

import contextlib
import json

from aiohttp import web

from hutch.errors import HutchError
from hutch.images.catalog import ImageStore


async def stream_build(images: ImageStore, request: web.Request, name: str, force: bool) -> web.StreamResponse:
    """Build, and answer with its events as they come. A client that goes away stops it.

    Errors before the first event (an unknown template) are raised, later ones are the stream's last line.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        async with contextlib.aclosing(images.build(name, force=force)) as events:
            async for event in events:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(event.model_dump_json().encode() + b"\n")
    except HutchError as error:
        if not response.prepared:
            raise
        line = json.dumps({"type": "error", "problem": error.to_problem()})
        await response.write(line.encode() + b"\n")
    return response
