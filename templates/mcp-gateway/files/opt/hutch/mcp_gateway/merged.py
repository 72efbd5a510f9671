"""Tools, prompts and resources of several servers as those of one."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias

import mcp_types as types
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server

from mcp_gateway.upstream import Upstream

_log = logging.getLogger("mcp_gateway")
_MAX_PAGES = 100

Kind = Literal["tools", "prompts", "resources", "resource_templates"]
Context: TypeAlias = ServerRequestContext[Any]
Paging: TypeAlias = types.PaginatedRequestParams | None


class Merged:
    """Asked anew each time, so that what a server gets or loses while it runs is seen. What has a name that no other
    server's has keeps it; else the server's name is put before it."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = upstreams
        self._owners: dict[tuple[Kind, str], tuple[Upstream, str]] = {}

    async def tools(self, _: Context, __: Paging) -> types.ListToolsResult:
        return types.ListToolsResult(tools=await self._named("tools"))

    async def prompts(self, _: Context, __: Paging) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=await self._named("prompts"))

    async def resources(self, _: Context, __: Paging) -> types.ListResourcesResult:
        found = await self._found("resources")
        self._owners |= {("resources", str(each.uri)): (upstream, str(each.uri)) for upstream, each in found}
        return types.ListResourcesResult(resources=[each for _, each in found])

    async def resource_templates(self, _: Context, __: Paging) -> types.ListResourceTemplatesResult:
        found = await self._found("resource_templates")
        return types.ListResourceTemplatesResult(resource_templates=[each for _, each in found])

    async def call(self, context: Context, asked: types.CallToolRequestParams) -> types.CallToolResult:
        upstream, name = await self._owner("tools", asked.name)
        report = context.session.report_progress
        return await upstream.client.session.call_tool(name, asked.arguments, progress_callback=report)

    async def prompt(self, _: Context, asked: types.GetPromptRequestParams) -> types.GetPromptResult:
        upstream, name = await self._owner("prompts", asked.name)
        return await upstream.client.session.get_prompt(name, asked.arguments)

    async def read(self, _: Context, asked: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        """Of the server that has listed it, or else of the first that has it: it may be of a template."""
        known = self._owners.get(("resources", str(asked.uri)))
        able = [known[0]] if known else [each for each in self._upstreams if _offers(each, "resources")]
        wrong = _unknown("resource", str(asked.uri))
        for upstream in able:
            try:
                return await upstream.client.session.read_resource(asked.uri)
            except MCPError as error:
                wrong = error
        raise wrong

    async def _owner(self, kind: Kind, name: str) -> tuple[Upstream, str]:
        if (kind, name) not in self._owners:
            await self._named(kind)
        if (owner := self._owners.get((kind, name))) is None:
            raise _unknown(kind[:-1], name)
        return owner

    async def _named(self, kind: Kind) -> list[Any]:
        found = await self._found(kind)
        often = Counter(each.name for _, each in found)
        shown = []
        for upstream, each in found:
            name = each.name if often[each.name] == 1 else f"{_short(upstream.name)}_{each.name}"
            self._owners[kind, name] = (upstream, each.name)
            shown.append(each.model_copy(update={"name": name}))
        return shown

    async def _found(self, kind: Kind) -> list[tuple[Upstream, Any]]:
        """Of a server that does not answer any more there is nothing."""
        found = []
        for upstream in self._upstreams:
            try:
                found += [(upstream, each) for each in await _listed(upstream, kind)]
            except MCPError as error:
                _log.warning("%s: %s", upstream.name, error)
        return found


def gateway(merged: Merged) -> Server:
    """The server that stands before them."""
    return Server(
        "mcp-gateway",
        on_list_tools=merged.tools,
        on_call_tool=merged.call,
        on_list_prompts=merged.prompts,
        on_get_prompt=merged.prompt,
        on_list_resources=merged.resources,
        on_list_resource_templates=merged.resource_templates,
        on_read_resource=merged.read,
    )


async def _listed(upstream: Upstream, kind: Kind) -> list[Any]:
    if not _offers(upstream, kind):
        return []
    ask: Callable[..., Awaitable[Any]] = getattr(upstream.client, f"list_{kind}")
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await ask(cursor=cursor)
        found += getattr(page, kind)
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _offers(upstream: Upstream, kind: Kind) -> bool:
    return (
        getattr(upstream.client.server_capabilities, kind.removeprefix("resource_templates") or "resources") is not None
    )


def _short(name: str) -> str:
    """In what models take for a tool's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.rpartition("/")[2])


def _unknown(what: str, name: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, f"no server here has the {what} {name!r}")
