"""The routes of templates that build steps make, and of their layers."""

from __future__ import annotations

import re

from aiohttp import web

from hutch.errors import InvalidRequest
from hutch.model import LAYER, MADE_NAME, KeepLayer, LayerInfo, MadeTemplate
from hutch.node.builds import Builds
from hutch.node.layers import MOST_BYTES, Layers
from hutch.node.making import Maker
from hutch.node.parts import Parts

_NAME, _KEY = re.compile(MADE_NAME), re.compile(LAYER)


class MadeApi:
    """The handlers."""

    def __init__(self, parts: Parts, layers: Layers, maker: Maker, builds: Builds) -> None:
        self._registry = parts.registry
        self._layers = layers
        self._maker = maker
        self._builds = builds

    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of each."""
        return [
            web.post("/sandboxes/{id}/layer", self.keep),
            web.get("/layers/{key}", self.layer),
            web.put("/layers/{key}", self.take_in),
            web.put("/templates/{name}", self.make),
            web.delete("/templates/{name}", self.remove),
        ]

    async def keep(self, request: web.Request) -> web.Response:
        body = KeepLayer.model_validate_json(await request.read())
        entry = self._registry.get(request.match_info["id"])
        return _json(await self._layers.keep(entry, body.key))

    async def layer(self, request: web.Request) -> web.Response:
        return _json(self._layers.find(_key(request)))

    async def take_in(self, request: web.Request) -> web.Response:
        return _json(await self._layers.take_in(_key(request), request.content.iter_any(), MOST_BYTES))

    async def make(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if not _NAME.fullmatch(name):
            raise InvalidRequest("not the name of a template that is made", field="name", value=name[:80])
        wanted = MadeTemplate.model_validate_json(await request.read())
        await self._maker.make(name, wanted)
        return await self._builds.stream(request, name, False)

    async def remove(self, request: web.Request) -> web.Response:
        await self._maker.remove(request.match_info["name"])
        return web.Response(status=204)


def _key(request: web.Request) -> str:
    key = request.match_info["key"]
    if not _KEY.fullmatch(key):
        raise InvalidRequest("not the key of a layer", field="key", value=key[:80])
    return key


def _json(model: LayerInfo) -> web.Response:
    return web.Response(text=model.model_dump_json(), content_type="application/json")
