"""Reads what a call used out of the provider's answer, streamed or not, while it passes.

A provider says the exact figures early (Anthropic: input at the start) or only at the very end (OpenAI). Until it has
said them, output is estimated from the text that went by, so that a budget also stops a stream in its middle; the
exact figures replace the estimate.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from hutch.egress.prices import Tokens
from hutch.egress.sse import SseReader

CHARACTERS_PER_TOKEN = 4
"""For estimates: about right for English and code, and never far off for long."""

_USAGE = re.compile(rb'"usage"\s*:\s*(\{)')
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')


class UsageReader(ABC):
    """Follows one answer. Never raises: an answer that it does not understand counts nothing."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.finished = False
        """The provider said that the answer is complete."""
        self.told = False
        """The provider said what went in."""
        self._sse = SseReader()
        self._exact = Tokens()
        self._unseen = 0
        """Characters that went by since the last exact output figure."""

    @property
    def tokens(self) -> Tokens:
        """What is known so far, with the estimate where nothing better is known."""
        guess = self._exact.output + -(-self._unseen // CHARACTERS_PER_TOKEN)
        return replace(self._exact, output=guess) if self._unseen else self._exact

    def feed(self, chunk: bytes) -> None:
        """Takes the next chunk of a stream of events."""
        for data, cut in self._sse.feed(chunk):
            if data == b"[DONE]":
                self.finished = True
                continue
            event = _salvage(data) if cut else _load(data)
            if event is not None:
                self._guarded(event)

    def read(self, body: bytes) -> None:
        """Takes a whole answer that was not streamed."""
        answer = _load(body)
        if answer is not None:
            self._answered(answer)
            self.finished = True

    def assume_input(self, tokens: int) -> None:
        """For an answer that was broken off before the provider told: it charges for the input all the same."""
        if not self.told:
            self._exact = replace(self._exact, input=tokens)

    def _guarded(self, event: dict[str, Any]) -> None:
        try:
            self.event(event)
        except (AttributeError, TypeError, KeyError, ValueError):
            return

    @abstractmethod
    def event(self, event: dict[str, Any]) -> None:
        """Takes one event."""

    @abstractmethod
    def exact(self, usage: dict[str, Any]) -> Tokens:
        """The provider's figures; what `usage` does not mention stays as it was."""

    def _answered(self, answer: dict[str, Any]) -> None:
        """Takes what an answer, or the part of it in an event, says of itself."""
        self._name(answer.get("model"))
        self._take(answer.get("usage"))
        self._tier(answer.get("service_tier"))

    def _tier(self, tier: Any) -> None:
        if isinstance(tier, str) and tier:
            self._exact = replace(self._exact, tier=tier[:32])

    def _take(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._exact, self._unseen, self.told = self.exact(usage), 0, True

    def _name(self, model: Any) -> None:
        if isinstance(model, str) and model:
            self.model = model[:200]

    def _see(self, text: Any) -> None:
        if isinstance(text, str):
            self._unseen += len(text)


class AnthropicReader(UsageReader):
    """Messages."""

    def event(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "message_start":
                self._answered(event["message"])
            case "content_block_delta":
                delta = event["delta"]
                self._see(delta.get("text") or delta.get("thinking") or delta.get("partial_json"))
            case "message_delta":
                self._take(event.get("usage"))
            case "message_stop":
                self.finished = True

    def exact(self, usage: dict[str, Any]) -> Tokens:
        before = self._exact
        split = _mapping(usage.get("cache_creation"))
        return Tokens(
            input=_count(usage.get("input_tokens"), before.input),
            output=_count(usage.get("output_tokens"), before.output),
            cache_read=_count(usage.get("cache_read_input_tokens"), before.cache_read),
            cache_write=_count(usage.get("cache_creation_input_tokens"), before.cache_write),
            cache_write_1h=_count(split.get("ephemeral_1h_input_tokens"), before.cache_write_1h),
            searches=_count(_mapping(usage.get("server_tool_use")).get("web_search_requests"), before.searches),
            tier=_speed(usage) or before.tier,
        )


class OpenAiReader(UsageReader):
    """Responses, Chat Completions, Completions and Embeddings: told apart by what the events look like."""

    def event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if not isinstance(kind, str):
            self._chat(event)
        elif kind.endswith(".delta"):
            self._see(event.get("delta"))
        elif isinstance(answer := event.get("response"), dict):
            self._answered(answer)
            self.finished = self.finished or kind in ("response.completed", "response.incomplete", "response.failed")

    def _chat(self, event: dict[str, Any]) -> None:
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or choice
            self._see(delta.get("content") or delta.get("text") or delta.get("reasoning_content"))
            for call in delta.get("tool_calls") or []:
                self._see(_mapping(call.get("function")).get("arguments"))
        self._answered(event)

    def exact(self, usage: dict[str, Any]) -> Tokens:
        """OpenAI counts what came from the cache as part of the input; we keep them apart."""
        details = _mapping(usage.get("input_tokens_details") or usage.get("prompt_tokens_details"))
        prompt = _count(usage.get("input_tokens", usage.get("prompt_tokens")), 0)
        read = min(_count(details.get("cached_tokens"), 0), prompt)
        write = min(_count(details.get("cache_write_tokens"), 0), prompt - read)
        output = _count(usage.get("output_tokens", usage.get("completion_tokens")), 0)
        tier = self._exact.tier
        return Tokens(input=prompt - read - write, output=output, cache_read=read, cache_write=write, tier=tier)


def _load(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _salvage(tail: bytes) -> dict[str, Any] | None:
    """What the end of an event too long to keep says of usage, dressed as OpenAI's last event."""
    found = list(_USAGE.finditer(tail))
    if not found:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(tail[found[-1].start(1) :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    model = _MODEL.search(tail)
    name = model.group(1).decode("utf-8", "replace") if model else None
    return {"type": "response.completed", "response": {"usage": usage, "model": name}}


def _count(value: Any, default: int) -> int:
    """A number of tokens; what is none, or is negative or absurd, is as if it were not there."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else default


def _speed(usage: dict[str, Any]) -> str:
    """Anthropic tells the tier and the speed of an answer among its usage."""
    told = (usage.get("speed"), usage.get("service_tier"))
    return next((word[:32] for word in told if isinstance(word, str) and word not in ("", "standard")), "")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
