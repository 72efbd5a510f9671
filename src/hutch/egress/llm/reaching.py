"""What in a request has the provider itself reach out: tools of its that search and fetch, and addresses that it is to
read from. Through these a guest could send data past its sandbox's network policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hutch.egress.llm.fields import each, plain, values
from hutch.egress.llm.refused import Refused
from hutch.model import LlmApi

_OPENAI = re.compile(r"web_search\w*|mcp|shell|code_interpreter")
_ANTHROPIC = re.compile(r"(web_search|web_fetch|code_execution)_\w+|mcp_toolset")
_GOOGLE = {"functiondeclarations", "codeexecution", "computeruse", "filesearch"}
"""The only ones of Google's that reach nothing."""
_SEARCHING_MODEL = re.compile(r".*-search(-.*)?|.*:online")
_ADDRESSES = {"imageurl", "fileurl", "videourl", "audiourl"}
_MODELS_OWN = {"input", "arguments", "args", "parameters", "inputschema"}
"""Of tools and their calls: what stands below is not read as a part of the request."""


def check(request: dict[str, Any], api: LlmApi) -> None:
    """Raises `Refused` for a request with which the provider might reach out."""
    field = next(_tools(request, api), None) or next(_addresses(request, api), None)
    if field is not None:
        raise Refused(
            400,
            f"`{field[:100]}` has the provider reach the network itself, and this sandbox may not (`provider_tools`). "
            "Leave it out, or have the task made with `provider_tools: allow`.",
            field=field.split(":")[0],
        )


def _tools(request: dict[str, Any], api: LlmApi) -> Iterator[str]:
    match api:
        case "openai":
            yield from _openai(request)
        case "anthropic":
            for tool in each(request, "tools"):
                yield from (f"tools: {kind}" for kind in values(tool, "type") if _ANTHROPIC.fullmatch(str(kind)))
            yield from ("mcp_servers" for given in values(request, "mcpservers") if given)
        case "google":
            for tool in each(request, "tools"):
                yield from (f"tools: {kind}" for kind in tool if plain(kind) not in _GOOGLE)


def _openai(request: dict[str, Any]) -> Iterator[str]:
    groups = [request, *each(request, "input")]
    while groups:
        for tool in each(groups.pop(), "tools"):
            groups.append(tool)
            for kind in values(tool, "type"):
                if _OPENAI.fullmatch(str(kind)) and not _stays(tool, str(kind)):
                    yield f"tools: {kind}"
    if any(each(request, "prompt")):
        yield "prompt"  # one that is stored with the provider, with tools of its own
    for name in ("web_search_options", "plugins"):
        if any(value not in (None, []) for value in values(request, plain(name))):
            yield name
    if _SEARCHING_MODEL.fullmatch(str(request.get("model"))):
        yield "model"


def _stays(tool: dict[str, Any], kind: str) -> bool:
    """Searches in what the provider has stored, and shells that the client runs, reach nothing."""
    if kind == "shell":
        return all(value == "local" for where in each(tool, "environment") for value in values(where, "type"))
    live = list(values(tool, "externalwebaccess"))
    return kind == "web_search" and bool(live) and all(value is False for value in live)


def _addresses(request: dict[str, Any], api: LlmApi) -> Iterator[str]:
    """Where the provider is to read a picture or a file."""
    waiting: list[Any] = list(request.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, below in value.items():
                name = plain(key)
                if name in _ADDRESSES and any(map(_leads_out, _texts(below))):
                    yield key
                elif name == "source" and isinstance(below, dict) and "url" in map(str, values(below, "type")):
                    yield "source"
                elif name == "filedata" and api == "google":
                    yield from ("fileData" for data in [below] for uri in values(data, "fileuri") if uri)
                if name not in _MODELS_OWN:
                    waiting.append(below)


def _texts(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else list(values(value, "url"))
    return [text for text in found if isinstance(text, str)]


def _leads_out(text: str) -> bool:
    return not text.lstrip()[:5].lower().startswith("data:")
