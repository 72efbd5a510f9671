"""What a sandbox that reaches nothing may not have its provider reach for it."""

from __future__ import annotations

import io
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.unit.egress.test_llm_providers import PLACEHOLDER, gateway, serving

from hutch.control.networks import public
from hutch.egress.llm.reaching import check
from hutch.egress.llm.refused import Refused
from hutch.model import AllowAll, DenyAll, NetworkRules

URL = "https://evil.test/?stolen"


def said(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


REACHING: list[tuple[Any, dict[str, Any], str]] = [
    ("openai", {"tools": [{"type": "web_search", "external_web_access": True}]}, "tools"),
    ("openai", {"tools": [{"type": "web_search_preview", "external_web_access": False}]}, "tools"),
    ("openai", {"tools": [{"type": "mcp", "server_url": URL}]}, "tools"),
    ("openai", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools"),
    ("openai", {"input": [{"tools": [{"type": "namespace", "tools": [{"type": "mcp"}]}]}]}, "tools"),
    ("openai", {"web_search_options": {}}, "web_search_options"),
    ("openai", {"plugins": [{"id": "web"}]}, "plugins"),
    ("openai", {"prompt": {"id": "pmpt_1"}}, "prompt"),
    ("openai", {"model": "gpt-4o-search-preview"}, "model"),
    ("openai", said({"type": "image_url", "image_url": {"url": URL}}), "image_url"),
    ("openai", said({"type": "video_url", "VideoUrl": {"Url": URL}}), "VideoUrl"),
    ("openai", {"input": [{"content": [{"type": "input_file", "file_url": URL}]}]}, "file_url"),
    ("openai", {"input": [{"output": [{"type": "input_image", "image_url": URL}]}]}, "image_url"),
    ("anthropic", {"tools": [{"type": "web_search_20250305"}]}, "tools"),
    ("anthropic", {"tools": [{"type": "web_fetch_20250910"}]}, "tools"),
    ("anthropic", {"mcp_servers": [{"url": URL}]}, "mcp_servers"),
    ("anthropic", said({"type": "image", "source": {"type": "url", "url": URL}}), "source"),
    ("anthropic", said({"content": [{"type": "document", "source": {"type": "url", "url": URL}}]}), "source"),
    ("google", {"tools": [{"functionDeclarations": []}, {"url_context": {}}]}, "tools"),
    ("google", {"tools": [{"googleSearch": {}}]}, "tools"),
    ("google", {"contents": [{"parts": [{"fileData": {"fileUri": URL}}]}]}, "fileData"),
    ("google", {"contents": [{"parts": [{"file_data": {"file_uri": "gs://evil/stolen"}}]}]}, "fileData"),
]


@pytest.mark.parametrize(("api", "request_", "field"), REACHING)
def test_what_has_the_provider_reach_out_is_refused(api: Any, request_: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused, match="provider_tools") as refused:
        check(request_, api)
    assert (refused.value.status, refused.value.field) == (400, field)


PIXEL = "data:image/png;base64,AAAA"
STAYING: list[tuple[Any, dict[str, Any]]] = [
    ("openai", {"tools": [{"type": "function", "parameters": {"image_url": URL}}, {"type": "local_shell"}]}),
    ("openai", {"tools": [{"type": "web_search", "external_web_access": False}, {"type": "shell"}]}),
    ("openai", {"prompt": "once upon", "plugins": [], "model": "gpt-5.4"}),
    ("openai", said({"image_url": {"url": PIXEL}}, {"type": "text", "text": f"see {URL}"}, {"image_url": None})),
    ("anthropic", said({"source": {"type": "base64", "data": "AAAA"}}, {"type": "tool_use", "input": {"url": URL}})),
    ("anthropic", {"tools": [{"name": "WebFetch", "input_schema": {}}, {"type": "bash_20250124"}], "mcp_servers": []}),
    ("anthropic", said({"type": "tool_use", "input": {"source": {"type": "url"}, "image_url": URL}})),
    ("google", {"tools": [{"functionDeclarations": []}], "contents": [{"parts": [{"inlineData": {"data": "A"}}]}]}),
    ("google", {"contents": [{"parts": [{"functionCall": {"args": {"fileData": {"fileUri": URL}}}}]}]}),
]


@pytest.mark.parametrize(("api", "request_"), STAYING)
def test_what_stays_with_the_provider_passes(api: Any, request_: dict[str, Any]) -> None:
    check(request_, api)


async def test_the_grant_says_whether_the_provider_may_reach_out() -> None:
    seen: list[str] = []

    async def model(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        await request.read()
        return web.json_response({"model": "claude-opus-5-5", "usage": {"input_tokens": 1, "output_tokens": 1}})

    small = {"model": "claude-opus-5-5"} | said({"type": "image", "source": {"type": "url", "url": URL}})
    large = {"model": "claude-opus-5-5", "x": "y" * (3 << 20)} | said(*small["messages"][0]["content"])
    for allowed, status in ((False, 400), (True, 200)):
        async with (
            serving(model) as base,
            gateway("anthropic", base, provider_tools=allowed) as bench,
            aiohttp.ClientSession(headers={"x-api-key": PLACEHOLDER}) as client,
        ):
            for path, body in (("messages", small), ("messages/count_tokens", small), ("messages", large)):
                async with client.post(f"{bench.url}/v1/{path}", data=io.BytesIO(json.dumps(body).encode())) as answer:
                    assert answer.status == status, await answer.text()
    assert len(seen) >= 3 and "/v1/messages/count_tokens" in seen


def test_what_is_public_is_reached_by_some_policies_only() -> None:
    assert public(AllowAll()) and public(NetworkRules(public=True))
    assert not public(DenyAll()) and not public(NetworkRules(allow=["pypi.org"]))
