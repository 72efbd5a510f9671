"""Answers and requests that are too long to be held."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.unit.egress.test_llm_providers import PLACEHOLDER, Bench, gateway, serving

from hutch.egress.llm import room as room_module
from hutch.egress.llm.room import Held, Room
from hutch.egress.llm.usage import mapping

HEADERS = {"authorization": f"Bearer {PLACEHOLDER}"}
ROW = b'{"object":"embedding","embedding":[' + b"-0.0123," * 1000 + b"1]},\n"
TOLD = b'{}],"model":"text-embedding-3-large","usage":{"prompt_tokens":70,"total_tokens":70}}'


async def embeddings(
    request: web.Request, rows: int, row: bytes = ROW, before_end: Callable[[], Awaitable[None]] | None = None
) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"object":"list","data":[')
    for _ in range(rows):
        await response.write(row)
    if before_end is not None:
        await before_end()
    await response.write(TOLD)
    await response.write_eof()
    return response


async def fetch(client: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    body = {"model": "text-embedding-3-large", "input": ["x"]}
    async with client.post(f"{url}/embeddings", json=body, headers=HEADERS) as answer:
        assert answer.status == 200
        async for piece in answer.content.iter_any():
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


async def test_embeddings_pass_and_are_counted_without_being_held() -> None:
    async def many(request: web.Request) -> web.StreamResponse:
        return await embeddings(request, 3000)

    async with serving(many) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        direct = await fetch(client, base)
        tracemalloc.start()
        try:
            assert await fetch(client, bench.url) == direct and direct[0] > 20 << 20
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        assert (bench.usage.requests, bench.usage.input_tokens, bench.usage.output_tokens) == (1, 70, 0)
        assert bench.usage.usd == pytest.approx(70 * 0.13 / 1e6)
        assert bench.entries[-1][2]["usage"]["input_tokens"] == 70
        await all_is_let_go(bench)


async def all_is_let_go(bench: Bench) -> None:
    async with asyncio.timeout(10):
        while bench.gateway._accounts["sbx_a"].gate.under_way:
            await asyncio.sleep(0.01)
    assert bench.gateway._room.held("sbx_a") == 0


async def test_an_answer_whose_outline_is_too_long_is_counted_by_its_end() -> None:
    async def many(request: web.Request) -> web.StreamResponse:
        return await embeddings(request, 1000, b'{"a":[],"b":"c"},' * 100)

    async with serving(many) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        assert await fetch(client, base) == await fetch(client, bench.url)
        assert (bench.usage.input_tokens, bench.usage.output_tokens) == (70, 0)


async def test_a_long_answer_that_its_client_leaves_is_counted_when_it_ends() -> None:
    left = asyncio.Event()

    async def many(request: web.Request) -> web.StreamResponse:
        return await embeddings(request, 200, before_end=lambda: asyncio.wait_for(left.wait(), 30))  # type: ignore[arg-type]

    async with serving(many) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        body = {"model": "text-embedding-3-large"}
        async with client.post(f"{bench.url}/embeddings", json=body, headers=HEADERS) as answer:
            await answer.content.readexactly(100_000)
        left.set()
        await all_is_let_go(bench)
        assert (bench.usage.requests, bench.usage.input_tokens) == (1, 70)


async def test_a_long_answer_that_is_broken_off_ends_the_connection_and_counts_what_went_in() -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        async def cut() -> None:
            assert request.transport is not None
            request.transport.abort()

        return await embeddings(request, 50, before_end=cut)

    async with serving(breaks) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientError):
            await fetch(client, bench.url)
        await all_is_let_go(bench)
        assert bench.usage.requests == 1 and 0 < bench.usage.input_tokens < 70


async def test_requests_of_one_sandbox_are_held_up_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "SHARE", 300_000)
    monkeypatch.setattr(room_module, "ALWAYS", 100_000)

    async def echo(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"model": "gpt-5.4", "usage": {"input_tokens": 1}})

    async with serving(echo) as base, gateway("openai", base) as bench, aiohttp.ClientSession() as client:
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b'{"model": "gpt-5.4", "input": "' + b"a" * 120_000
            await go_on.wait()
            yield b'"}'

        first = [asyncio.create_task(post(client, bench, slow())) for _ in range(2)]
        async with asyncio.timeout(10):
            while bench.gateway._room.held("sbx_a") < 240_000:
                await asyncio.sleep(0.01)
        assert await post(client, bench, slow()) == 429
        go_on.set()
        assert [await task for task in first] == [200, 200]
        assert await post(client, bench, slow()) == 200
        await all_is_let_go(bench)


async def post(client: aiohttp.ClientSession, bench: Bench, body: AsyncIterator[bytes]) -> int:
    headers = HEADERS | {"content-type": "application/json"}
    async with client.post(f"{bench.url}/responses", data=body, headers=headers) as answer:
        if answer.status != 200:
            assert "again" in json.loads(await answer.read())["error"]["message"]
        return answer.status


@dataclass
class Large:
    """A provider that says what it was asked, and how far it came."""

    asked: list[bytes] = field(default_factory=list)
    begun: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.begun += 1
        self.asked.append(await request.read())
        body = json.loads(self.asked[-1])
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 3}}
        if not body.get("stream"):
            return web.json_response({"model": body["model"], "usage": usage})
        told = mapping(body.get("stream_options")).get("include_usage") is True
        events = [{"choices": [{"delta": {"content": "x"}}]}] + [{"choices": [], "usage": usage}] * told
        text = "".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")


PICTURE = {"content": [{"image_url": {"url": "data:image/png;base64," + "A" * (3 << 20)}}]}


@asynccontextmanager
async def large(**limits: Any) -> AsyncIterator[tuple[Large, Bench, Callable[..., Any]]]:
    provider = Large()
    async with (
        serving(provider.answer) as base,
        gateway("openai", base, **limits) as bench,
        aiohttp.ClientSession() as client,
    ):

        async def ask(body: bytes, path: str = "/chat/completions") -> tuple[int, str]:
            async with client.post(f"{bench.url}{path}", data=io.BytesIO(body), headers=HEADERS) as answer:
                return answer.status, await answer.text()

        yield provider, bench, ask
        await all_is_let_go(bench)


async def test_of_a_large_request_all_is_known_before_the_provider_has_its_end() -> None:
    begin = json.dumps({"messages": [PICTURE]})[:-1]
    async with large(max_usd=1.0) as (provider, bench, ask):
        for rest, says in (
            (', "model": "house-blend"}', "house-blend has no price"),
            ("}", "names no model"),
            (', "model": "gpt-5.4", "tools": [{"type": "file_search"}]}' + " " * 500_000, "file_search"),
            (', "model": "gpt-5.4", "background": true}', "background"),
            (', "model": "gpt-5.4", "model": "gpt-5-nano"}', "twice"),
            (', "model": "gpt-5.4", "x": [' + '"",' * 800_000 + "0]}", "beside its long texts"),
        ):
            status, text = await ask((begin + rest).encode())
            assert status in (400, 413) and says in text, text
        assert provider.asked == [] and bench.usage.requests == 0 and bench.usage.tokens == 0
        assert provider.begun > 0, "it passes while it comes"
        assert bench.gateway._accounts["sbx_a"]._purse.calls == 0
        whole = (begin + ', "model": "gpt-5.4-2026-01-01"}').encode()
        assert (await ask(whole, "/responses"))[0] == 200 and provider.asked == [whole]
        assert bench.usage.usd > 0 and (bench.usage.input_tokens, bench.usage.output_tokens) == (9, 4)


async def test_a_large_stream_is_asked_for_its_usage_too() -> None:
    body = {"messages": [PICTURE], "model": "gpt-5.4", "stream": True}
    async with large() as (provider, bench, ask):
        status, text = await ask(json.dumps(body).encode() + b" \n")
        assert status == 200 and "usage" not in text and '"x"' in text, "the client has not asked"
        assert json.loads(provider.asked[-1]) == body | {"stream_options": {"include_usage": True}}
        assert (bench.usage.input_tokens, bench.usage.output_tokens, bench.usage.reasoning_tokens) == (9, 4, 3)
        asks = body | {"stream_options": {"include_usage": True}}
        assert "completion_tokens" in (await ask(json.dumps(asks).encode()))[1]
        assert json.loads(provider.asked[-1]) == asks and bench.usage.output_tokens == 8
        status, text = await ask(json.dumps(body | {"stream_options": {"include_usage": False}}).encode())
        assert status == 400 and "include_usage" in text and len(provider.asked) == 2
        assert (await ask(json.dumps(body | {"stream": False}).encode()))[0] == 200
        assert json.loads(provider.asked[-1]) == body | {"stream": False}


async def test_a_tasks_dollars_bind_models_without_a_price_too() -> None:
    async with large(max_usd=1.0) as (provider, _, ask):
        status, text = await ask(b'{"model": "house-blend"}')
        assert status == 400 and "house-blend has no price" in text and "tokens" in text
        assert json.loads(text)["error"]["param"] == "model" and provider.begun == 0
        for model in ("o3", "o1-2024-12-17", "o4-mini", "gpt-4-turbo-2024-04-09"):
            assert (await ask(json.dumps({"model": model}).encode()))[0] == 200
    async with large(max_tokens=1000) as (_, bench, ask):
        assert (await ask(b'{"model": "house-blend"}'))[0] == 200 and bench.usage.unpriced_tokens == 13


def test_the_room_of_all_leaves_each_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("SHARE", 100), ("ALWAYS", 10), ("TOTAL", 150)):
        monkeypatch.setattr(room_module, name, size)
    room = Room()
    a, b, c = (Held(room, name) for name in "abc")
    a.ask(100)
    assert not room.allows("a", 1)
    b.ask(70)
    assert not room.allows("b", 1), "ninety and sixty beyond what each always has"
    c.ask(10)
    assert not room.allows("c", 1)
    c.be(40)
    assert room.held("c") == 40, "what cannot be put off is held, and leaves the others less"
    a.be(50)
    assert room.allows("c", 20) and not room.allows("c", 21)
    for held in (a, b, c):
        held.be(0)
    assert not room._held and room._beyond == 0
