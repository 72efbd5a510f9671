"""What each provider's answers say of usage: Anthropic's Messages, OpenAI's Responses and Chat Completions (and what is
compatible with them), Google's generateContent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from hutch.egress.llm.prices import Tokens
from hutch.egress.llm.usage import UsageReader, count, items, mapping

_APART = ("compaction", "advisor_message")
"""Samplings of one call that are charged beside what its usage says, and listed in `iterations`."""


class AnthropicReader(UsageReader):
    """Messages. `message_start` says the input, `message_delta` the figures of the whole call so far."""

    def __init__(self) -> None:
        super().__init__()
        self._base = Tokens()
        self._apart = Tokens()

    def event(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "message_start":
                self.answer(event["message"])
            case "content_block_delta":
                delta = event["delta"]
                self._see(delta.get("text") or delta.get("thinking") or delta.get("partial_json"))
            case "message_delta":
                self._take(event.get("usage"))
            case "message_stop":
                self.finished = True

    def exact(self, usage: dict[str, Any]) -> Tokens:
        self._base = _anthropic(usage, self._base)
        if "iterations" in usage:
            apart = [one for one in items(usage["iterations"]) if one.get("type") in _APART]
            self._apart = _sum([_anthropic(one, Tokens()) for one in apart])
        searches = mapping(usage.get("server_tool_use")).get("web_search_requests")
        tier = _speed(usage) or self._exact.tier
        geo = usage.get("inference_geo")
        region = geo[:32] if isinstance(geo, str) else self._exact.region
        counted = _sum([self._base, self._apart])
        return replace(counted, searches=count(searches, self._exact.searches), tier=tier, region=region)


def _anthropic(usage: dict[str, Any], before: Tokens) -> Tokens:
    """`cache_creation` splits what was written to the cache: for five minutes, or for an hour."""
    split = mapping(usage.get("cache_creation"))
    details = mapping(usage.get("output_tokens_details"))
    write_1h = count(split.get("ephemeral_1h_input_tokens"), before.cache_write_1h)
    write_5m = count(split.get("ephemeral_5m_input_tokens"))
    write = count(usage.get("cache_creation_input_tokens"), before.cache_write)
    return Tokens(
        input=count(usage.get("input_tokens"), before.input),
        output=count(usage.get("output_tokens"), before.output),
        cache_read=count(usage.get("cache_read_input_tokens"), before.cache_read),
        cache_write=max(write, write_1h + write_5m),
        cache_write_1h=write_1h,
        reasoning=count(details.get("thinking_tokens"), before.reasoning),
    )


def _sum(parts: list[Tokens]) -> Tokens:
    names = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
    return Tokens(**{name: sum(getattr(part, name) for part in parts) for name in names})


def _speed(usage: dict[str, Any]) -> str:
    """Anthropic tells the tier and the speed of an answer among its usage."""
    told = (usage.get("speed"), usage.get("service_tier"))
    return next((word[:32] for word in told if isinstance(word, str) and word not in ("", "standard")), "")


_SEARCH = "web_search_call"


class OpenAiReader(UsageReader):
    """Responses, Chat Completions, Completions and Embeddings: told apart by what the events look like."""

    def event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if not isinstance(kind, str):
            self._chat(event)
        elif kind == "response.output_item.done":
            self._searched(self._exact.searches + (mapping(event.get("item")).get("type") == _SEARCH))
        elif kind.endswith(".delta"):
            self._see(event.get("delta"))
        elif isinstance(answer := event.get("response"), dict):
            self.answer(answer)
            self.failed = self.failed or kind == "response.failed"
            self.finished = self.finished or kind in ("response.completed", "response.incomplete", "response.failed")
        elif kind == "error":
            self.failed = True

    def answer(self, answer: dict[str, Any]) -> None:
        super().answer(answer)
        self._searched(sum(item.get("type") == _SEARCH for item in items(answer.get("output"))))

    def _searched(self, times: int) -> None:
        """Each event may be the last, and the one that has them all may be too long to be read."""
        if times > self._exact.searches:
            self._exact = replace(self._exact, searches=times)

    def _chat(self, event: dict[str, Any]) -> None:
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or choice
            self._see(delta.get("content") or delta.get("text"))
            self._see(delta.get("reasoning_content") or delta.get("reasoning"))
            for call in delta.get("tool_calls") or []:
                self._see(mapping(call.get("function")).get("arguments"))
        self.answer(event)

    def exact(self, usage: dict[str, Any]) -> Tokens:
        """OpenAI counts what came from the cache as part of the input; we keep them apart. Of those compatible with it,
        some count reasoning in the total only."""
        read_in = mapping(usage.get("input_tokens_details") or usage.get("prompt_tokens_details"))
        made = mapping(usage.get("output_tokens_details") or usage.get("completion_tokens_details"))
        prompt = count(usage.get("input_tokens", usage.get("prompt_tokens")))
        read = min(count(read_in.get("cached_tokens"), count(usage.get("prompt_cache_hit_tokens"))), prompt)
        write = min(count(read_in.get("cache_write_tokens")), prompt - read)
        output = count(usage.get("output_tokens", usage.get("completion_tokens")))
        output = max(output, count(usage.get("total_tokens")) - prompt)
        fresh = prompt - read - write
        return Tokens(
            input=fresh,
            output=output,
            cache_read=read,
            cache_write=write,
            reasoning=min(count(made.get("reasoning_tokens")), output),
            audio_input=min(count(read_in.get("audio_tokens")), fresh),
            audio_output=min(count(made.get("audio_tokens")), output),
            searches=self._exact.searches,
            tier=self._exact.tier,
        )


class GoogleReader(UsageReader):
    """generateContent. Each event may have figures, which are those of the call so far, or only a part of them."""

    usage_field: ClassVar[bytes] = b"usageMetadata"

    def event(self, event: dict[str, Any]) -> None:
        candidates = items(event.get("candidates"))
        for candidate in candidates:
            for part in items(mapping(candidate.get("content")).get("parts")):
                self._see(part.get("text"))
                if "functionCall" in part:
                    self._see(str(part["functionCall"]))
        self.answer(event)
        if self.told and any(candidate.get("finishReason") for candidate in candidates):
            self.finished = True

    def answer(self, answer: dict[str, Any]) -> None:
        self._name(answer.get("modelVersion"))
        searches = sum(
            len(mapping(candidate.get("groundingMetadata")).get("webSearchQueries") or [])
            for candidate in items(answer.get("candidates"))
        )
        if searches > self._exact.searches:
            self._exact = replace(self._exact, searches=searches)
        self._take(answer.get("usageMetadata"))

    def _take(self, usage: Any) -> None:
        """Vertex sends figures without any number in them; and a number for the output may come later than the
        output."""
        if not isinstance(usage, dict) or "promptTokenCount" not in usage:
            return
        unseen = self._unseen
        super()._take(usage)
        if "candidatesTokenCount" not in usage:
            self._unseen = unseen

    def exact(self, usage: dict[str, Any]) -> Tokens:
        """The prompt has what was cached in it; what tools gave back, and thoughts, stand beside."""
        prompt, tools = count(usage.get("promptTokenCount")), count(usage.get("toolUsePromptTokenCount"))
        read, thoughts = count(usage.get("cachedContentTokenCount")), count(usage.get("thoughtsTokenCount"))
        total = count(usage.get("totalTokenCount"))
        read = min(read, prompt)
        made = max(count(usage.get("candidatesTokenCount")) + thoughts, total - prompt - tools, self._exact.output)
        heard = _audio(usage.get("promptTokensDetails")) - _audio(usage.get("cacheTokensDetails"))
        return Tokens(
            input=prompt - read + tools,
            output=made,
            cache_read=read,
            reasoning=thoughts,
            audio_input=max(0, min(heard, prompt - read)),
            audio_output=min(_audio(usage.get("candidatesTokensDetails")), made),
            searches=self._exact.searches,
            tier=self._exact.tier,
        )


def _audio(details: Any) -> int:
    return sum(count(part.get("tokenCount")) for part in items(details) if part.get("modality") == "AUDIO")
