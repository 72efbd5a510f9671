"""What the gateway knows of each model provider: which calls pass, with which headers, and how errors look."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hutch.egress.llm.readers import AnthropicReader, GoogleReader, OpenAiReader
from hutch.egress.llm.usage import UsageReader
from hutch.model import LlmApi
from hutch.settings import LlmEndpoint


@dataclass(frozen=True)
class Route:
    """One call of a provider's API that a sandbox may make. A group `model` of its path names the model."""

    method: str
    path: re.Pattern[str]
    metered: bool = True
    """Uses tokens that cost."""
    generates: bool = True
    """Its answer has tokens that cost; else only what goes in does."""
    streams: bool = False
    """Always streams; others stream when the request says so."""
    streams_usage_on_demand: bool = False
    """A stream tells its usage only when `stream_options.include_usage` asks for it, so the gateway asks."""


@dataclass(frozen=True)
class Provider:
    """One model provider. Everything not named here does not pass, in either direction."""

    name: str
    api: LlmApi
    routes: tuple[Route, ...]
    request_headers: re.Pattern[str]
    response_headers: re.Pattern[str]
    key_headers: Callable[[str], dict[str, str]]
    reader: Callable[[], UsageReader]
    error_kinds: Mapping[int, str]
    final_status: int
    """Status after which the provider's clients do not try again: Codex tries six times on a 403, Claude Code once."""
    base_url: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    """Added to every call."""
    key_names: tuple[str, ...] = ("x-api-key", "authorization")
    """Headers in which clients send what they have for a key."""

    def route(self, method: str, path: str) -> Route | None:
        """The route that a request takes; None when it may not pass."""
        return next((route for route in self.routes if route.method == method and route.path.fullmatch(path)), None)

    def error(self, status: int, message: str, field: str | None = None) -> bytes:
        """An error of the gateway in the provider's own shape, so that every client understands it."""
        kind = self.error_kinds.get(status, "api_error")
        shape: dict[str, Any]
        match self.api:
            case "anthropic":
                shape = {"type": "error", "error": {"type": kind, "message": message}}
            case "openai":
                shape = {"error": {"message": message, "type": kind, "param": field, "code": kind}}
            case "google":
                shape = {"error": {"code": status, "message": message, "status": kind}}
        return json.dumps(shape).encode()

    def error_event(self, message: str) -> bytes:
        """The same in the middle of a stream of events."""
        body = self.error(500, message)
        match self.api:
            case "anthropic":
                return b"event: error\ndata: " + body + b"\n\n"
            case "openai":
                detail = {"type": "error", "code": "server_error", "message": message, "param": None}
                return b"event: error\ndata: " + json.dumps(detail | json.loads(body)).encode() + b"\n\n"
            case "google":
                return b"data: " + body + b"\n\n"


_ID = r"[A-Za-z0-9][A-Za-z0-9._:@\[\]-]{0,127}"
_NAME = rf"{_ID}(/{_ID}){{0,3}}"
"""Names of models at those who offer many makers'."""
_COMMON_REQUEST = r"accept|content-type|user-agent|x-client-request-id|x-stainless-[a-z-]+"
_COMMON_RESPONSE = r"content-type|request-id|x-request-id|retry-after|retry-after-ms|x-should-retry"


def _header(name: str) -> Callable[[str], dict[str, str]]:
    if name == "authorization":
        return lambda key: {name: f"Bearer {key}"}
    return lambda key: {name: key}


ANTHROPIC = Provider(
    name="anthropic",
    api="anthropic",
    routes=(
        Route("POST", re.compile(r"/v1/messages")),
        Route("POST", re.compile(r"/v1/messages/count_tokens"), metered=False),
        Route("GET", re.compile(rf"/v1/models(/{_NAME})?"), metered=False),
    ),
    request_headers=re.compile(rf"{_COMMON_REQUEST}|anthropic-(version|beta|dangerous-direct-browser-access)|x-app"),
    response_headers=re.compile(rf"{_COMMON_RESPONSE}|anthropic-ratelimit-[a-z-]+"),
    key_headers=_header("x-api-key"),
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
    base_url="https://api.anthropic.com",
)

OPENAI = Provider(
    name="openai",
    api="openai",
    routes=(
        Route("POST", re.compile(r"/responses")),
        Route("POST", re.compile(r"/(chat/)?completions"), streams_usage_on_demand=True),
        Route("POST", re.compile(r"/embeddings"), generates=False),
        Route("GET", re.compile(rf"/models(/{_NAME})?"), metered=False),
    ),
    # the x-codex and x-openai-internal-codex ones change how Codex and the model talk, not who pays
    request_headers=re.compile(
        rf"{_COMMON_REQUEST}|openai-beta|originator|session[-_]id|thread[-_]id|x-(openai-internal-)?codex-[a-z-]+"
    ),
    response_headers=re.compile(
        rf"{_COMMON_RESPONSE}|x-ratelimit-[a-z-]+|openai-(version|processing-ms|model)|x-codex-[a-z-]+"
    ),
    key_headers=_header("authorization"),
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
    base_url="https://api.openai.com/v1",
    key_names=("authorization", "api-key", "x-api-key"),
)

_GOOGLE_MODEL = r"/v1(beta|alpha)?/(models|tunedModels)/(?P<model>[A-Za-z0-9][A-Za-z0-9._-]{0,127})"

GOOGLE = Provider(
    name="google",
    api="google",
    routes=(
        Route("POST", re.compile(rf"{_GOOGLE_MODEL}:generateContent")),
        Route("POST", re.compile(rf"{_GOOGLE_MODEL}:streamGenerateContent"), streams=True),
        Route("POST", re.compile(rf"{_GOOGLE_MODEL}:(embedContent|batchEmbedContents)"), generates=False),
        Route("POST", re.compile(rf"{_GOOGLE_MODEL}:countTokens"), metered=False),
        Route("GET", re.compile(rf"/v1(beta|alpha)?/models(/{_ID})?"), metered=False),
    ),
    request_headers=re.compile(rf"{_COMMON_REQUEST}|x-goog-api-client|x-server-timeout"),
    response_headers=re.compile(rf"{_COMMON_RESPONSE}|server-timing|x-gemini-service-tier"),
    key_headers=_header("x-goog-api-key"),
    reader=GoogleReader,
    error_kinds={
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        413: "INVALID_ARGUMENT",
        415: "INVALID_ARGUMENT",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        502: "UNAVAILABLE",
    },
    final_status=403,
    base_url="https://generativelanguage.googleapis.com",
    key_names=("x-goog-api-key", "authorization"),
)

_BY_API: dict[LlmApi, Provider] = {"anthropic": ANTHROPIC, "openai": OPENAI, "google": GOOGLE}

QUERY = frozenset({"beta", "limit", "after_id", "before_id", "alt", "pageSize", "pageToken"})
"""Query parameters that pass."""


def table(base_urls: Mapping[str, str], endpoints: Mapping[str, LlmEndpoint]) -> dict[str, Provider]:
    """All providers, by the first part of the path that sandboxes call them with: Hutch's own, with other base URLs
    where such are given, and the operator's."""
    found = {
        name: replace(provider, base_url=base_urls.get(name, provider.base_url).rstrip("/"))
        for name, provider in _BY_API.items()
    }
    return found | {name: _endpoint(name, endpoint) for name, endpoint in endpoints.items()}


def _endpoint(name: str, endpoint: LlmEndpoint) -> Provider:
    like = _BY_API[endpoint.api]
    return replace(
        like,
        name=name,
        base_url=endpoint.base_url.rstrip("/"),
        query=dict(endpoint.query),
        key_headers=_header(endpoint.key_header) if endpoint.key_header else like.key_headers,
    )
