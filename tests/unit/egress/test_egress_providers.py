"""What passes the gateway, and what does not."""

from __future__ import annotations

import json

import pytest

from hutch.egress.llm.providers import ANTHROPIC, OPENAI, Provider


@pytest.mark.parametrize(
    ("provider", "method", "path"),
    [
        (ANTHROPIC, "POST", "/v1/messages"),
        (ANTHROPIC, "POST", "/v1/messages/count_tokens"),
        (ANTHROPIC, "GET", "/v1/models"),
        (ANTHROPIC, "GET", "/v1/models/claude-opus-5-5"),
        (OPENAI, "POST", "/responses"),
        (OPENAI, "POST", "/chat/completions"),
        (OPENAI, "POST", "/completions"),
        (OPENAI, "POST", "/embeddings"),
        (OPENAI, "GET", "/models"),
    ],
)
def test_model_calls_pass(provider: Provider, method: str, path: str) -> None:
    assert provider.route(method, path) is not None


@pytest.mark.parametrize(
    ("provider", "method", "path"),
    [
        (ANTHROPIC, "GET", "/v1/messages"),
        (ANTHROPIC, "POST", "/v1/messages/batches"),
        (ANTHROPIC, "POST", "/v1/files"),
        (ANTHROPIC, "GET", "/v1/organizations/api_keys"),
        (ANTHROPIC, "GET", "/v1/models/../files"),
        (ANTHROPIC, "GET", "/v1/models/.."),
        (ANTHROPIC, "POST", "/v1/messages/"),
        (ANTHROPIC, "POST", "//v1/messages"),
        (ANTHROPIC, "DELETE", "/v1/models/x"),
        (OPENAI, "GET", "/responses/resp_1"),
        (OPENAI, "POST", "/files"),
        (OPENAI, "GET", "/organization/costs"),
        (OPENAI, "POST", "/images/generations"),
        (OPENAI, "GET", "/models/x\n"),
    ],
)
def test_everything_else_does_not(provider: Provider, method: str, path: str) -> None:
    assert provider.route(method, path) is None


@pytest.mark.parametrize("provider", [ANTHROPIC, OPENAI])
@pytest.mark.parametrize(
    "name",
    ["host", "authorization", "x-api-key", "cookie", "x-forwarded-for", "openai-organization", "openai-project", "te"],
)
def test_headers_that_say_who_pays_or_where_to_do_not_pass(provider: Provider, name: str) -> None:
    assert not provider.request_headers.fullmatch(name)
    assert not provider.response_headers.fullmatch(name)
    assert not provider.response_headers.fullmatch("set-cookie")
    assert not provider.response_headers.fullmatch("anthropic-organization-id")


def test_errors_have_the_providers_shape() -> None:
    assert json.loads(ANTHROPIC.error(403, "no")) == {
        "type": "error",
        "error": {"type": "permission_error", "message": "no"},
    }
    assert json.loads(OPENAI.error(403, "no"))["error"]["message"] == "no"
    for provider in (ANTHROPIC, OPENAI):
        event = provider.error_event("cut")
        assert event.startswith(b"event: error\ndata: ") and event.endswith(b"\n\n")
        assert json.loads(event.splitlines()[1].removeprefix(b"data: "))["error"]["message"] == "cut"
