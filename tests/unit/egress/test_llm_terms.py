"""What a request may not ask for, as the provider would charge for what its answer does not tell."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.unit.egress.test_llm_providers import PLACEHOLDER, gateway, serving

from hutch.egress.llm.asked import read
from hutch.egress.llm.fields import parse
from hutch.egress.llm.prices import Price, PriceTable, Tokens
from hutch.egress.llm.readers import AnthropicReader, OpenAiReader
from hutch.egress.llm.refused import Refused
from hutch.egress.llm.terms import check

HEADERS = {"authorization": f"Bearer {PLACEHOLDER}"}
NO_SEARCH = Price(input=1.0, output=1.0)


def image(**config: Any) -> dict[str, Any]:
    return {"generationConfig": config}


APART: list[tuple[Any, dict[str, Any], str]] = [
    ("openai", {"tools": [{"type": "function"}, {"type": "code_interpreter"}]}, "tools: code_interpreter"),
    ("openai", {"tools": [{"type": "image_generation"}]}, "tools: image_generation"),
    ("openai", {"tools": [{"type": "file_search"}]}, "tools: file_search"),
    ("openai", {"tools": [{"type": "of_tomorrow"}]}, "tools: of_tomorrow"),
    ("openai", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools: shell"),
    ("openai", {"tools": [{"type": "namespace", "tools": [{"type": "file_search"}]}]}, "tools: file_search"),
    ("openai", {"input": [{"type": "additional_tools", "tools": [{"type": "file_search"}]}]}, "tools: file_search"),
    ("openai", {"Tools": {"TYPE": "file_search"}}, "tools: file_search"),
    ("openai", {"web_search_options": {}}, "web_search_options"),
    ("openai", {"plugins": [{"id": "web"}]}, "plugins"),
    ("openai", {"prompt": {"id": "pmpt_1"}}, "prompt"),
    ("openai", {"n": 2, "best_of": 3}, "best_of"),
    ("openai", {"modalities": ["text", "image"]}, "modalities"),
    ("anthropic", {"tools": [{"name": "x"}, {"type": "code_execution_20250825"}]}, "tools: code_execution_20250825"),
    ("google", {"tools": [{"google_maps": {}}]}, "tools: google_maps"),
    ("google", {"tools": [{"enterpriseWebSearch": {}}]}, "tools: enterpriseWebSearch"),
    ("google", {"service_tier": "priority"}, "serviceTier"),
    ("google", image(responseModalities=["TEXT", "IMAGE"]), "generationConfig.responseModalities"),
    ("google", {"generation_config": {"response_modalities": [2]}}, "generationConfig.responseModalities"),
]


@pytest.mark.parametrize(("api", "request_", "field"), APART)
def test_what_costs_beside_the_usage_is_refused_where_dollars_are_counted(
    api: Any, request_: dict[str, Any], field: str
) -> None:
    asked = read(request_, api)
    assert asked.apart == field and not asked.searches
    with pytest.raises(Refused, match="budget in dollars") as refused:
        check(asked, "m", NO_SEARCH, 400)
    assert refused.value.status == 400 and refused.value.field == field.split(":")[0]


TOLD: list[tuple[Any, dict[str, Any]]] = [
    ("openai", {"tools": [{"type": "function"}, {"type": "custom"}, {"type": "mcp"}, {"type": "local_shell"}]}),
    ("openai", {"tools": [{"type": "shell"}, {"type": "shell", "environment": {"type": "local"}}]}),
    ("openai", {"tools": None, "prompt": "once", "n": 2, "best_of": 2, "modalities": ["text", "audio"]}),
    ("openai", {"background": False, "store": True, "service_tier": "priority", "plugins": []}),
    ("anthropic", {"tools": [{"name": "Bash"}, {"type": "bash_20250124"}, {"type": "web_fetch_20250910"}]}),
    ("anthropic", {"messages": [{"content": [{"type": "tool_use", "input": {"tools": [{"type": "x"}]}}]}]}),
    ("google", {"tools": [{"functionDeclarations": []}, {"codeExecution": {}, "url_context": {}}]}),
    ("google", image(responseModalities=["TEXT"]) | {"serviceTier": "flex"}),
]


@pytest.mark.parametrize(("api", "request_"), TOLD)
def test_what_the_usage_tells_passes(api: Any, request_: dict[str, Any]) -> None:
    asked = read(request_, api)
    assert asked.apart is None
    check(asked, "m", NO_SEARCH, 400)


@pytest.mark.parametrize(
    ("api", "tool"),
    [
        ("openai", {"type": "web_search_preview"}),
        ("anthropic", {"type": "web_search_20250305"}),
        ("google", {"google_search": {}}),
    ],
)
def test_searches_pass_where_they_have_a_price(api: Any, tool: dict[str, Any]) -> None:
    asked = read({"tools": [tool]}, api)
    assert asked.searches and asked.apart is None
    with pytest.raises(Refused, match="have no price") as refused:
        check(asked, "house-blend", NO_SEARCH, 403)
    assert "house-blend" in refused.value.message
    check(asked, "one's own", Price(input=0.0, output=0.0), 403)
    for model in ("gpt-5.4", "claude-opus-5-5", "gemini-2.5-pro"):
        check(asked, model, PriceTable.load().find(model), 403)


@pytest.mark.parametrize(
    "body",
    [
        b'{"background": false, "background": true}',
        b'{"tools": [{"type": "function", "type": "file_search"}]}',
        b'\xef\xbb\xbf{"model": "x"}',
        '{"model": "x"}'.encode("utf-16"),
        b'{"model": "\xff"}',
        b"[" * 100_000,
        b'[{"model": "x"}]',
        b"",
    ],
)
def test_a_body_that_two_readers_may_take_for_two_things_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse(body)
    assert refused.value.status == 400


async def test_an_answer_in_the_background_is_never_asked_for() -> None:
    asked: list[dict[str, Any]] = []

    async def queue(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        return web.json_response({"id": "resp_1", "status": "queued", "usage": None})

    async with serving(queue) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        for field in ("background", "Background"):
            body = {"model": "gpt-5.4", "input": "think for long", field: True}
            async with client.post(f"{bench.url}/responses", json=body, headers=HEADERS) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["param"]) == (400, "background") and "`stream`" in error["message"]
        async with client.post(f"{bench.url}/responses", data=b"model=x", headers=HEADERS) as answer:
            assert answer.status == 400 and "JSON" in await answer.text()
        assert asked == [] and bench.usage.requests == 0
        body = {"model": "gpt-5.4", "tools": [{"type": "code_interpreter"}]}
        async with client.post(f"{bench.url}/responses", json=body, headers=HEADERS) as answer:
            assert answer.status == 200, "nobody counts dollars"
    async with (
        serving(queue) as base,
        gateway("openai", base, max_usd=1.0) as bench,
        aiohttp.ClientSession() as client,
        client.post(f"{bench.url}/responses", json=body, headers=HEADERS) as answer,
    ):
        assert answer.status == 400 and (await answer.json())["error"]["param"] == "tools"
        assert len(asked) == 1


def test_searches_are_counted_as_they_come() -> None:
    """The event at the end that repeats them may be too long to be read, or never come."""
    reader = OpenAiReader()
    for kind in ("web_search_call", "message", "web_search_call"):
        event = {"type": "response.output_item.done", "item": {"type": kind}}
        reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert reader.tokens.searches == 2
    usage = json.dumps({"input_tokens": 5, "output_tokens": 1}).encode()
    last = b'data: {"type": "response.completed", "response": {"output": ["' + b"x" * (2 << 20) + b'"], "usage": '
    reader.feed(last + usage + b"}}\n\n")
    assert (reader.tokens.searches, reader.tokens.input, reader.finished) == (2, 5, True)


def test_a_region_has_its_factor() -> None:
    reader = AnthropicReader()
    usage = {"input_tokens": 1_000_000, "output_tokens": 0, "inference_geo": "us"}
    reader.read(json.dumps({"model": "claude-opus-5-5", "usage": usage}).encode())
    price = PriceTable.load().find("claude-opus-5-5")
    assert price is not None and reader.tokens.region == "us"
    assert price.cost(reader.tokens) == pytest.approx(1.1 * price.cost(Tokens(input=1_000_000)))
