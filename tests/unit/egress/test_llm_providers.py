"""The gateway and providers of each form, over HTTP on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.unit.egress.google_model import GoogleModel

from hutch.egress.llm import gateway as llm
from hutch.egress.llm.gateway import LlmGateway
from hutch.egress.llm.providers import ANTHROPIC
from hutch.model import LlmGrant, LlmUsage
from hutch.settings import LlmEndpoint

KEY = "AIza-the-real-key-0123456789abcdef"
PLACEHOLDER = "hutch-placeholder"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Bench:
    """A gateway with one sandbox, and what it journaled."""

    gateway: LlmGateway
    url: str
    entries: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def usage(self) -> LlmUsage:
        found = self.gateway.usage("sbx_a")
        assert found is not None
        return found


@asynccontextmanager
async def gateway(provider: str, base: str, endpoint: LlmEndpoint | None = None, **grant: Any) -> AsyncIterator[Bench]:
    entries: list[tuple[str, str, dict[str, Any]]] = []

    async def journal(sandbox: str, kind: str, data: dict[str, Any]) -> None:
        entries.append((sandbox, kind, data))

    endpoints = {provider: endpoint} if endpoint is not None else {}
    made = LlmGateway(journal, base_urls={provider: base}, endpoints=endpoints, host="127.0.0.1")
    port = await made.start()
    made.grant("sbx_a", "127.0.0.1", LlmGrant(provider=provider, key=KEY, placeholder=PLACEHOLDER, **grant))  # type: ignore[arg-type]
    try:
        yield Bench(made, f"http://127.0.0.1:{port}/{provider}", entries)
    finally:
        await made.stop()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def google() -> AsyncIterator[GoogleModel]:
    model = GoogleModel(["Hello ", "{wor]ld", '"!'])
    yield model
    if model._runner is not None:
        await model.stop()


@pytest.mark.parametrize("call", ["generateContent", "streamGenerateContent", "streamGenerateContent?alt=sse"])
async def test_google_is_passed_through_and_counted(google: GoogleModel, call: str) -> None:
    base = await google.start()
    async with gateway("google", base) as bench, aiohttp.ClientSession() as client:
        url = f"/v1beta/models/gemini-2.5-pro:{call}"
        body = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 100}}
        headers = {"x-goog-api-key": PLACEHOLDER, "x-goog-user-project": "someone"}
        async with client.post(bench.url + url, json=body, headers=headers) as answer:
            through, kind = await answer.read(), answer.content_type
        async with client.post(base + url, json=body) as answer:
            assert (through, kind) == (await answer.read(), answer.content_type), "the client sees the provider's words"
        path, seen = google.requests[0]
        assert path == url and seen["x-goog-api-key"] == KEY and "x-goog-user-project" not in seen
        usage = bench.usage
        told = (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens, usage.reasoning_tokens)
        assert told == (2007, 1000, 100, 60)
        assert usage.usd == pytest.approx((2007 * 1.25 + 1000 * 0.125 + 100 * 10) / 1e6)
        assert (
            bench.entries[-1][2]["usage"]["output_tokens"] == 100 and bench.entries[-1][2]["model"] == "gemini-2.5-pro"
        )


async def test_googles_key_may_come_in_the_query_and_never_goes_on(google: GoogleModel) -> None:
    base = await google.start()
    async with gateway("google", base) as bench, aiohttp.ClientSession() as client:
        url = f"{bench.url}/v1beta/models/gemini-2.5-pro:countTokens?key={PLACEHOLDER}"
        async with client.post(url, json={}) as answer:
            assert answer.status == 200
        assert google.requests[0][0] == "/v1beta/models/gemini-2.5-pro:countTokens"
        assert bench.usage == LlmUsage(), "counting tokens costs nothing"
        async with client.post(url.replace(PLACEHOLDER, "wrong"), json={}) as answer:
            assert answer.status == 401 and (await answer.json())["error"]["status"] == "UNAUTHENTICATED"
        for path in ("/v1beta/models/a:b:generateContent", "/v1beta/files", "/v1beta/models/x:batchGenerateContent"):
            async with client.post(f"{bench.url}{path}?key={PLACEHOLDER}", json={}) as answer:
                assert answer.status == 404


@pytest.mark.parametrize("alt", ["", "?alt=sse"])
async def test_a_budget_cuts_googles_streams(google: GoogleModel, alt: str) -> None:
    google.texts = ["word " * 2000] * 50
    base = await google.start()
    async with gateway("google", base, max_tokens=20_000) as bench, aiohttp.ClientSession() as client:
        url = f"{bench.url}/v1beta/models/gemini-2.5-pro:streamGenerateContent{alt}"
        async with client.post(url, json={}, headers={"x-goog-api-key": PLACEHOLDER}) as answer:
            text = await answer.text()
        assert len(text) < 50 * 10_000 and 20_000 <= bench.usage.tokens < 40_000
        assert bench.entries[-1][1] == "llm_budget_exceeded" or bench.entries[-2][1] == "llm_budget_exceeded"
        if alt:
            assert "used up" in text.strip().splitlines()[-1]
        elif text.endswith("]"):
            assert "used up" in json.loads(text)[-1]["error"]["message"]


async def test_an_endpoint_of_the_operators_is_called_as_he_says() -> None:
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def azure(request: web.Request) -> web.StreamResponse:
        seen.append((request.path_qs, dict(request.headers), await request.json()))
        usage = {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}
        return web.json_response({"model": "house-blend", "choices": [], "usage": usage})

    async with serving(azure) as base:
        endpoint = LlmEndpoint(
            api="openai", base_url=f"{base}/openai/v1/", key_header="api-key", query={"api-version": "preview"}
        )
        async with gateway("azure", base, endpoint) as bench, aiohttp.ClientSession() as client:
            body = {"model": "gpt-5-mini", "messages": []}
            headers = {"authorization": f"Bearer {PLACEHOLDER}"}
            async with client.post(f"{bench.url}/chat/completions", json=body, headers=headers) as answer:
                assert answer.status == 200
            ((path, given, sent),) = seen
            assert path == "/openai/v1/chat/completions?api-version=preview"
            assert given["api-key"] == KEY and "authorization" not in {name.lower() for name in given}
            assert sent == body, "only streams are asked for their usage"
            # what answered has no price, so that of what was asked for counts
            assert bench.usage.usd == pytest.approx((8 * 0.25 + 2 * 2.0) / 1e6)
            async with client.post(f"{bench.url.replace('azure', 'openai')}/responses", headers=headers) as answer:
                assert answer.status == 403, "the key is for one provider"


CHUNKS = [{"choices": [{"index": 0, "delta": {"content": "hi"}}]}] * 3
TOLD = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33}}


@pytest.mark.parametrize("asks", [True, False])
async def test_a_chats_usage_is_counted_and_shown_to_who_asks(asks: bool) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        wanted = (await request.json()).get("stream_options", {}).get("include_usage")
        events = [*({**each, "usage": None} for each in CHUNKS), TOLD] if wanted else CHUNKS
        text = "".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")

    async with serving(chat) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        body = {"model": "gpt-5", "stream": True, "stream_options": {"include_obfuscation": False}, "messages": []}
        body["stream_options"] |= {"include_usage": True} if asks else {}  # type: ignore[operator]
        headers = {"authorization": f"Bearer {PLACEHOLDER}"}
        async with client.post(f"{bench.url}/chat/completions", json=body, headers=headers) as answer:
            through = await answer.read()
        async with client.post(f"{base}/chat/completions", json=body) as answer:
            assert through == await answer.read()
        assert (bench.usage.input_tokens, bench.usage.output_tokens) == (30, 3)


@pytest.mark.parametrize("status", [400, 429, 500, 503, 529])
async def test_errors_of_the_provider_pass_unchanged_and_cost_nothing(status: int) -> None:
    body = json.dumps({"type": "error", "error": {"type": "x", "message": "é  \\u00e9"}}, ensure_ascii=False).encode()

    async def refuse(request: web.Request) -> web.StreamResponse:
        headers = {"retry-after": "7", "retry-after-ms": "7001", "x-should-retry": "true", "request-id": "req_1"}
        return web.Response(body=body, status=status, headers=headers | {"content-type": "application/json"})

    async with serving(refuse) as base, gateway("anthropic", base, max_usd=1.0) as bench:
        async with aiohttp.ClientSession(headers={"x-api-key": PLACEHOLDER}) as client:
            for _ in range(3):
                async with client.post(f"{bench.url}/v1/messages", json={"model": "claude-opus-5"}) as answer:
                    assert (answer.status, await answer.read()) == (status, body)
                    assert answer.headers["retry-after"] == "7" and answer.headers["retry-after-ms"] == "7001"
                    assert answer.headers["x-should-retry"] == "true" and answer.headers["request-id"] == "req_1"
        assert bench.usage == LlmUsage() and bench.entries == []
        assert bench.gateway._accounts["sbx_a"]._purse.calls == 0


async def test_a_provider_that_was_heard_and_is_silent_may_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "_PROVIDER_SILENCE", 0.3)
    silent = asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        await request.read()
        await silent.wait()
        return web.Response()

    async with serving(wait) as base, gateway("anthropic", base) as bench:
        async with aiohttp.ClientSession(headers={"x-api-key": PLACEHOLDER}) as client:
            body = {"model": "claude-opus-5", "max_tokens": 3, "messages": ["word " * 1000]}
            async with client.post(f"{bench.url}/v1/messages", json=body) as answer:
                assert answer.status == 502
        silent.set()
        assert 1000 < bench.usage.input_tokens < 1500 and bench.usage.output_tokens == 3
        bench.gateway._providers["anthropic"] = replace(ANTHROPIC, base_url="http://127.0.0.1:1")
        before = bench.usage
        async with (
            aiohttp.ClientSession(headers={"x-api-key": PLACEHOLDER}) as client,
            client.post(f"{bench.url}/v1/messages", json=body) as answer,
        ):
            assert answer.status == 502
        assert bench.usage == before, "one that was not reached charges nothing"


async def test_a_stream_that_fails_before_it_has_used_anything_costs_nothing() -> None:
    async def overloaded(request: web.Request) -> web.StreamResponse:
        text = 'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n'
        return web.Response(text=text, content_type="text/event-stream")

    async with serving(overloaded) as base, gateway("anthropic", base) as bench:
        async with aiohttp.ClientSession(headers={"x-api-key": PLACEHOLDER}) as client:
            body = {"model": "claude-opus-5", "stream": True, "messages": ["word " * 1000]}
            async with client.post(f"{bench.url}/v1/messages", json=body) as answer:
                assert "overloaded_error" in await answer.text()
        assert (bench.usage.tokens, bench.usage.usd) == (0, 0)
