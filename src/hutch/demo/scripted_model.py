"""A small model server that needs no key and no network: it speaks Anthropic's and OpenAI's wire and follows a script.

`python -m hutch.demo.scripted_model --port 0` prints its URL. Anthropic's base URL is `URL`, OpenAI's `URL/v1`. What
it says, and the words in a prompt that change its manner, are in `hutch.demo.model_script`.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import sys
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from hutch.demo import model_anthropic, model_openai
from hutch.demo.model_script import Conversation, Manner, parts

_MAX_BODY = 64 << 20


class ScriptedModel:
    """The server. With `key`, every other key is answered with 401, as a provider does."""

    def __init__(self, *, key: str | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._key = key
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None
        self.requests: list[dict[str, Any]] = []
        """The headers, path and body of what was asked, newest last, at most 200: for tests that look upstream."""

    async def start(self) -> str:
        """Begin to listen; answers the URL."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_post("/v1/responses", self._responses)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        address = self._runner.addresses[0]
        return f"http://{address[0]}:{address[1]}"

    async def stop(self) -> None:
        """Stop listening; answers under way are cut."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body, size = await self._read(request)
        if not self._authorized(request.headers.get("x-api-key", "")):
            return _json(401, model_anthropic.error("authentication_error", "invalid x-api-key"))
        talk = model_anthropic.read(body, size)
        manner = _manner(talk)
        if manner.overload:
            return _json(529, model_anthropic.error("overloaded_error", "Overloaded"))
        content = model_anthropic.blocks(parts(talk, manner), talk)
        used = model_anthropic.usage(*_tokens(talk, manner, content))
        await asyncio.sleep(manner.stall)
        if not body.get("stream"):
            return _json(200, model_anthropic.message(content, talk, used))
        events = model_anthropic.stream(content, talk, used, manner)
        return await _send(request, (model_anthropic.encode(event) for event in events), manner)

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        _, size = await self._read(request)
        return _json(200, {"input_tokens": size // 4})

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body, size = await self._read(request)
        talk, manner = self._openai(request, body, size)
        output = model_openai.items(parts(talk, manner), talk)
        used = model_openai.usage(*_tokens(talk, manner, output))
        await asyncio.sleep(manner.stall)
        if not body.get("stream"):
            return _json(200, model_openai.response(output, talk, used))
        events = model_openai.stream(output, talk, used, manner)
        return await _send(request, (model_openai.encode(event) for event in events), manner)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body, size = await self._read(request)
        talk, manner = self._openai(request, body, size)
        output = model_openai.items(parts(talk, manner), talk)
        used = model_openai.usage(*_tokens(talk, manner, output))
        await asyncio.sleep(manner.stall)
        if not body.get("stream"):
            return _json(200, model_openai.chat(output, talk, used))
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        events = model_openai.chat_stream(output, talk, used, manner, with_usage)
        lines = [*(model_openai.encode(event) for event in events), b"data: [DONE]\n\n"]
        return await _send(request, lines, manner)

    def _openai(self, request: web.Request, body: dict[str, Any], size: int) -> tuple[Conversation, Manner]:
        """What both of OpenAI's calls begin with."""
        if not self._authorized(request.headers.get("authorization", "").removeprefix("Bearer ")):
            raise _problem(401, model_openai.error("invalid_api_key", "Incorrect API key provided."))
        talk = model_openai.read(body, size)
        manner = _manner(talk)
        if manner.overload:
            raise _problem(503, model_openai.error("server_is_overloaded", "The server is overloaded"))
        return talk, manner

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return _json(200, {"object": "list", "data": [{"id": "scripted", "type": "model", "object": "model"}]})

    async def _read(self, request: web.Request) -> tuple[dict[str, Any], int]:
        raw = await request.read()
        body: dict[str, Any] = json.loads(raw)
        record = {"path": request.path_qs, "headers": dict(request.headers), "body": body}
        self.requests = [*self.requests[-199:], record]
        return body, len(raw)

    def _authorized(self, given: str) -> bool:
        return self._key is None or hmac.compare_digest(given.encode(), self._key.encode())


def _tokens(talk: Conversation, manner: Manner, content: list[dict[str, Any]]) -> tuple[int, int]:
    """Plausible input and output tokens: four characters each."""
    produced = max(1, len(json.dumps(content)) // 4)
    return (
        manner.input_tokens if manner.input_tokens is not None else max(1, talk.size // 4),
        manner.tokens if manner.tokens is not None else produced,
    )


async def _send(request: web.Request, lines: Iterable[bytes], manner: Manner) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    await response.prepare(request)
    for count, line in enumerate(lines):
        if manner.slow:
            await asyncio.sleep(manner.slow)
        if manner.cut and count == 6:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(line)
    await response.write_eof()
    return response


def _json(status: int, body: dict[str, Any]) -> web.Response:
    return web.json_response(body, status=status, headers={"request-id": "req_scripted"})


def _manner(talk: Conversation) -> Manner:
    try:
        return Manner.of(talk.prompt)
    except ValueError as error:
        raise _problem(400, {"error": {"type": "invalid_request_error", "message": str(error)}}) from error


def _problem(status: int, body: dict[str, Any]) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {400: web.HTTPBadRequest, 401: web.HTTPUnauthorized}
    kind = kinds.get(status, web.HTTPServiceUnavailable)
    return kind(text=json.dumps(body), content_type="application/json")


async def _serve(port: int, key: str | None) -> None:
    model = ScriptedModel(key=key, port=port)
    url = await model.start()
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    try:
        await asyncio.Event().wait()
    finally:
        await model.stop()


def main() -> None:
    """Run the server until it is stopped."""
    parser = argparse.ArgumentParser(prog="hutch.demo.scripted_model", description="A scripted model server.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--key", help="answer 401 to every other key")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(arguments.port, arguments.key))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
