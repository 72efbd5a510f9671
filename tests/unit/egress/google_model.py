"""A model server that speaks Google's generateContent as documented, streamed both ways, for tests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

USAGE = {
    "promptTokenCount": 3000,
    "cachedContentTokenCount": 1000,
    "candidatesTokenCount": 40,
    "thoughtsTokenCount": 60,
    "toolUsePromptTokenCount": 7,
    "totalTokenCount": 3107,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2900}, {"modality": "AUDIO", "tokenCount": 100}],
}


def answers(model: str, texts: list[str]) -> list[dict[str, Any]]:
    """The events of a streamed answer: the figures come with the last one."""
    events = []
    for index, text in enumerate(texts):
        last = index == len(texts) - 1
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        usage: dict[str, Any] = USAGE if last else {"trafficType": "ON_DEMAND"}
        events.append(
            {
                "candidates": [candidate | ({"finishReason": "STOP"} if last else {})],
                "usageMetadata": usage,
                "modelVersion": model,
            }
        )
    return events


class GoogleModel:
    """`POST /v1beta/models/MODEL:METHOD`."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1beta/models/{call}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, dict(request.headers)))
        model, _, method = request.match_info["call"].partition(":")
        if method == "countTokens":
            return web.json_response({"totalTokens": 3})
        if method == "generateContent":
            return web.json_response(answers(model, ["".join(self.texts)])[0])
        sse = request.query.get("alt") == "sse"
        kind = "text/event-stream" if sse else "application/json; charset=UTF-8"
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        for index, event in enumerate(answers(model, self.texts)):
            text = json.dumps(event, indent=None if sse else 2)
            await response.write((f"data: {text}\r\n\r\n" if sse else ("," if index else "[") + text + "\r\n").encode())
            await asyncio.sleep(0)
        if not sse:
            await response.write(b"]")
        await response.write_eof()
        return response
