"""What the gateway knows of each model provider: which calls pass, with which headers, and how errors look."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hutch.egress.usage import AnthropicReader, OpenAiReader, UsageReader

ProviderName = Literal["anthropic", "openai"]


@dataclass(frozen=True)
class Route:
    """One call of a provider's API that a sandbox may make."""

    method: str
    path: re.Pattern[str]
    metered: bool = True
    """Uses tokens that cost."""
    streams_usage_on_demand: bool = False
    """A stream tells its usage only when `stream_options.include_usage` asks for it, so the gateway asks."""


@dataclass(frozen=True)
class Provider:
    """One model provider. Everything not named here does not pass, in either direction."""

    name: ProviderName
    routes: tuple[Route, ...]
    request_headers: re.Pattern[str]
    response_headers: re.Pattern[str]
    key_headers: Callable[[str], dict[str, str]]
    reader: Callable[[], UsageReader]
    error_kinds: Mapping[int, str]
    final_status: int
    """Status after which the provider's clients do not try again: Codex tries six times on a 403, Claude Code once."""

    def route(self, method: str, path: str) -> Route | None:
        """The route that a request takes; None when it may not pass."""
        return next((route for route in self.routes if route.method == method and route.path.fullmatch(path)), None)

    def error(self, status: int, message: str) -> bytes:
        """An error of the gateway in the provider's own shape, so that every client understands it."""
        kind = self.error_kinds.get(status, "api_error")
        if self.name == "anthropic":
            return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
        return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": kind}}).encode()

    def error_event(self, message: str) -> bytes:
        """The same in the middle of a stream of events."""
        body = self.error(500, message)
        if self.name == "anthropic":
            return b"event: error\ndata: " + body + b"\n\n"
        detail = {"type": "error", "code": "server_error", "message": message, "param": None}
        return b"event: error\ndata: " + json.dumps(detail | json.loads(body)).encode() + b"\n\n"


_ID = r"[A-Za-z0-9][A-Za-z0-9._:@\[\]-]{0,127}"
_COMMON_REQUEST = r"accept|content-type|user-agent|x-client-request-id|x-stainless-[a-z-]+"
_COMMON_RESPONSE = r"content-type|request-id|x-request-id|retry-after|retry-after-ms|x-should-retry"

ANTHROPIC = Provider(
    name="anthropic",
    routes=(
        Route("POST", re.compile(r"/v1/messages")),
        Route("POST", re.compile(r"/v1/messages/count_tokens"), metered=False),
        Route("GET", re.compile(rf"/v1/models(/{_ID})?"), metered=False),
    ),
    request_headers=re.compile(rf"{_COMMON_REQUEST}|anthropic-(version|beta|dangerous-direct-browser-access)|x-app"),
    response_headers=re.compile(rf"{_COMMON_RESPONSE}|anthropic-ratelimit-[a-z-]+"),
    key_headers=lambda key: {"x-api-key": key},
    reader=AnthropicReader,
    error_kinds={
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        415: "invalid_request_error",
        429: "rate_limit_error",
    },
    final_status=403,
)

OPENAI = Provider(
    name="openai",
    routes=(
        Route("POST", re.compile(r"/responses")),
        Route("POST", re.compile(r"/(chat/)?completions"), streams_usage_on_demand=True),
        Route("POST", re.compile(r"/embeddings")),
        Route("GET", re.compile(rf"/models(/{_ID})?"), metered=False),
    ),
    # the x-codex and x-openai-internal-codex ones change how Codex and the model talk, not who pays
    request_headers=re.compile(
        rf"{_COMMON_REQUEST}|openai-beta|originator|session[-_]id|thread[-_]id|x-(openai-internal-)?codex-[a-z-]+"
    ),
    response_headers=re.compile(
        rf"{_COMMON_RESPONSE}|x-ratelimit-[a-z-]+|openai-(version|processing-ms|model)|x-codex-[a-z-]+"
    ),
    key_headers=lambda key: {"authorization": f"Bearer {key}"},
    reader=OpenAiReader,
    error_kinds={
        400: "invalid_request_error",
        401: "invalid_api_key",
        403: "permission_denied",
        404: "not_found",
        413: "invalid_request_error",
        415: "invalid_request_error",
        429: "rate_limit_exceeded",
        502: "server_error",
    },
    final_status=400,
)

PROVIDERS: dict[str, Provider] = {"anthropic": ANTHROPIC, "openai": OPENAI}

QUERY = frozenset({"beta", "limit", "after_id", "before_id"})
"""Query parameters that pass."""
