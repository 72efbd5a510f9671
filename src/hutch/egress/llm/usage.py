"""Reads what a call used out of the provider's answer, streamed or not, while it passes.

A provider says the exact figures early (Anthropic: input at the start) or only at the very end (OpenAI). Until it has
said them, output is estimated from the text that went by, so that a budget also stops a stream in its middle; the
exact figures replace the estimate. What each provider says is in `hutch.egress.llm.readers`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from hutch.egress.llm.arrays import ArrayReader
from hutch.egress.llm.prices import Tokens
from hutch.egress.llm.sse import SseReader

CHARACTERS_PER_TOKEN = 4
"""For estimates: about right for English and code, and never far off for long."""

_MODEL = re.compile(rb'"model(?:Version)?"\s*:\s*"([^"\\]{1,200})"')


class UsageReader(ABC):
    """Follows one answer. Never raises: an answer that it does not understand counts nothing."""

    usage_field: ClassVar[bytes] = b"usage"
    """Where an answer has its figures; looked for in the end of an event that is too long to be read."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.finished = False
        """The provider said that the answer is complete."""
        self.told = False
        """The provider said what went in."""
        self.failed = False
        """The provider said that it failed."""
        self._sse = SseReader()
        self._array = ArrayReader()
        self._exact = Tokens()
        self._guessed = self._exact, self._exact
        self._unseen = 0
        """Characters that went by since the last exact output figure."""

    @property
    def tokens(self) -> Tokens:
        """What is known so far, with the estimate where nothing better is known."""
        guess = self._exact.output + -(-self._unseen // CHARACTERS_PER_TOKEN)
        if not self._unseen:
            return self._exact
        exact, known = self._guessed
        if exact is not self._exact or known.output != guess:
            self._guessed = self._exact, replace(self._exact, output=guess)
        return self._guessed[1]

    def feed(self, chunk: bytes) -> None:
        """Takes the next chunk of a stream of events."""
        self._events(self._sse.feed(chunk))

    def feed_array(self, chunk: bytes) -> None:
        """Takes the next chunk of an answer that is one JSON array of events (Google's without `alt=sse`)."""
        self._events(self._array.feed(chunk))

    @property
    def held(self) -> int:
        """Bytes of events that have not ended."""
        return self._sse.held + self._array.held

    def read(self, body: bytes, *, cut: bool = False) -> None:
        """Takes a whole answer that was not streamed, or, where it is `cut`, the end of one."""
        if cut:
            self._salvage(body)
            self.finished = True
            return
        answer = _load(body)
        if answer is not None:
            self._guarded(answer, whole=True)
            self.finished = True

    def error_element(self, message: str) -> bytes:
        """The end of a broken off array of events, with an error as its last one. In the middle of an event there is
        no place for one."""
        if not self._array.between:
            return b""
        error = {"error": {"code": 500, "message": message, "status": "INTERNAL"}}
        return (b"," if self._array.begun else b"[") + json.dumps(error).encode() + b"]"

    def assume(self, input: int, output: int) -> None:
        """For an answer that was broken off: the provider charges for the input all the same, and for what it had
        made until then. What it has told, or what was seen, stands where that is more."""
        known = self.tokens
        self._exact = replace(known, input=known.input if self.told else input, output=max(known.output, output))
        self._unseen = 0

    def _events(self, events: Iterable[tuple[bytes, bool]]) -> None:
        for data, cut in events:
            if data == b"[DONE]":
                self.finished = True
            elif cut:
                self._salvage(data)
            elif (event := _load(data)) is not None:
                self._guarded(event, whole=False)

    def _guarded(self, event: dict[str, Any], whole: bool) -> None:
        try:
            if "error" in event and event["error"] is not None:
                self.failed = True
            self.answer(event) if whole else self.event(event)
        except (AttributeError, TypeError, KeyError, ValueError):
            return

    @abstractmethod
    def event(self, event: dict[str, Any]) -> None:
        """Takes one event."""

    @abstractmethod
    def exact(self, usage: dict[str, Any]) -> Tokens:
        """The provider's figures; what `usage` does not mention stays as it was."""

    def answer(self, answer: dict[str, Any]) -> None:
        """Takes what an answer, or the part of it in an event, says of itself."""
        self._name(answer.get("model"))
        self._take(answer.get("usage"))
        self._tier(answer.get("service_tier"))

    def _salvage(self, tail: bytes) -> None:
        """What the end of an event too long to keep says of usage. Only OpenAI's last event is ever that long, and
        Google's with pictures; in both the figures come last."""
        found = list(re.finditer(rb'"%s"\s*:\s*(\{)' % self.usage_field, tail))
        if not found:
            return
        try:
            usage, _ = json.JSONDecoder().raw_decode(tail[found[-1].start(1) :].decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return
        model = _MODEL.search(tail)
        self._name(model.group(1).decode("utf-8", "replace") if model else None)
        self._take(usage)
        self.finished = True

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


def count(value: Any, default: int = 0) -> int:
    """A number of tokens; what is none, or is negative or absurd, is as if it were not there."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else default


def mapping(value: Any) -> dict[str, Any]:
    """An object; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; anything else is an empty one."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _load(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
