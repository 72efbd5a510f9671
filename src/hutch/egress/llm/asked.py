"""What a request asks a provider for: the model, how much it may cost, and what costs beside its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hutch.egress.llm import reaching
from hutch.egress.llm.fields import each, plain, values
from hutch.egress.llm.refused import Refused
from hutch.egress.llm.usage import count, mapping
from hutch.model import LlmApi

_OUTPUT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

_OPENAI_TOOLS = re.compile(
    r"function|custom|namespace|tool_search|mcp|local_shell|apply_patch|computer|computer_use(_preview)?"
)
_ANTHROPIC_TOOLS = re.compile(
    r"custom|mcp_toolset|(bash|text_editor|computer|memory|tool_search_tool|web_fetch|advisor)_\w+"
)
"""Tools that cost no more than the tokens which the answer's usage tells. (The advisor's are among them, apart.)"""
_GOOGLE_TOOLS = {"functiondeclarations", "codeexecution", "urlcontext", "computeruse", "filesearch", "mcpservers"}
_GOOGLE_SEARCHES = {"googlesearch", "googlesearchretrieval"}
_MODALITIES = {"text", "audio"}


@dataclass(frozen=True)
class Asked:
    """What a request says of itself: the guest's word, so it serves only for estimates, for what concerns nobody but
    the guest, and for what is refused."""

    model: str | None = None
    stream: bool = False
    max_output: int | None = None
    """Most tokens that the answer may have, all its choices together; None when it does not say."""
    usage: bool = True
    """It wants to be told the usage of a streamed answer."""
    stream_options: bool = False
    """It has that field."""
    searches: bool = False
    """The model may search the web: the answer tells how often."""
    apart: str | None = None
    """The field that may cost what the answer's usage does not tell."""


def read(request: dict[str, Any], api: LlmApi, *, reaches: bool = True) -> Asked:
    """What it asks for. Raises `Refused` for an answer that would be made, and charged for, without being told, and,
    unless it `reaches` out, for what has the provider do so."""
    if not reaches:
        reaching.check(request, api)
    if api == "openai" and any(value not in (False, None) for value in values(request, "background")):
        raise Refused(
            400,
            "`background` does not pass the gateway: the provider would charge for an answer whose usage it never "
            "tells. Leave it out, and use `stream` for answers that take long.",
            field="background",
        )
    model = request.get("model")
    config = mapping(request.get("generationConfig") or request.get("generation_config"))
    limits = [count(request.get(name), -1) for name in _OUTPUT_FIELDS]
    limits.append(count(config.get("maxOutputTokens", config.get("max_output_tokens")), -1))
    choices = max(1, count(request.get("n")), count(config.get("candidateCount", config.get("candidate_count"))))
    most = max(limits)
    kinds = list(_KINDS[api](request))
    return Asked(
        model=model[:128] if isinstance(model, str) else None,
        stream=request.get("stream") is True,
        max_output=most * choices if most >= 0 else None,
        usage=mapping(request.get("stream_options")).get("include_usage") is True,
        stream_options=any(True for _ in values(request, "streamoptions")),
        searches="" in kinds,
        apart=next((kind for kind in kinds if kind), None),
    )


def _openai(request: dict[str, Any]) -> Iterator[str]:
    """The fields that cost beside tokens; "" for searches, which are told."""
    for tool in _openai_tools(request):
        for kind in values(tool, "type"):
            hosted = any(value != "local" for where in each(tool, "environment") for value in values(where, "type"))
            if str(kind).startswith("web_search"):
                yield ""
            elif not (_OPENAI_TOOLS.fullmatch(str(kind)) or (kind == "shell" and not hosted)):
                yield f"tools: {str(kind)[:64]}"
    for name in ("web_search_options", "plugins"):
        if any(value not in (None, []) for value in values(request, plain(name))):
            yield name
    if any(each(request, "prompt")):
        yield "prompt"  # one that is stored with the provider, with tools of its own
    if any(count(best) > max(1, count(request.get("n"))) for best in values(request, "bestof")):
        yield "best_of"
    if _others(values(request, "modalities")):
        yield "modalities"


def _openai_tools(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Also those that come with the input, and in groups."""
    groups = [request, *each(request, "input")]
    while groups:
        for tool in each(groups.pop(), "tools"):
            yield tool
            groups.append(tool)


def _anthropic(request: dict[str, Any]) -> Iterator[str]:
    for tool in each(request, "tools"):
        for kind in values(tool, "type"):
            if str(kind).startswith("web_search_"):
                yield ""
            elif kind is not None and not _ANTHROPIC_TOOLS.fullmatch(str(kind)):
                yield f"tools: {str(kind)[:64]}"


def _google(request: dict[str, Any]) -> Iterator[str]:
    for tool in each(request, "tools"):
        for kind in tool:
            if plain(kind) in _GOOGLE_SEARCHES:
                yield ""
            elif plain(kind) not in _GOOGLE_TOOLS:
                yield f"tools: {kind[:64]}"
    for config in each(request, "generationconfig"):
        if _others(values(config, "responsemodalities")):
            yield "generationConfig.responseModalities"
    if any(str(tier).lower() not in ("standard", "flex") for tier in values(request, "servicetier")):
        yield "serviceTier"


def _others(lists: Iterable[Any]) -> bool:
    """Whether anything but text and sound is to be made: pictures have prices of their own."""
    made = [one for each in lists if each is not None for one in (each if isinstance(each, list) else [each])]
    return any(str(one).lower() not in _MODALITIES for one in made)


_KINDS = {"openai": _openai, "anthropic": _anthropic, "google": _google}
