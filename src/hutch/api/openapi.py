"""The OpenAPI 3.1 document: FastAPI's, told the truth about errors and about what needs a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hutch.api.auth import SCHEME, needs_key
from hutch.api.schemas import Problem
from hutch.model.common import MAX_STRING

DESCRIPTION = """Sandboxes for AI agents, self-hosted. Errors are `application/problem+json` (RFC 9457) with a stable
`code`; every answer has an `X-Request-Id`. Beside what is listed here there are two WebSockets:
`/v1/sandboxes/{id}/pty` and `/v1/tasks/{id}/stream`."""

_NEVER = ("HTTPValidationError", "ValidationError")


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """The document, made once. (That keys are needed is said here, not by a dependency of FastAPI's: that would run in
    every request, to no purpose.)"""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for name in _NEVER:
            schemas.pop(name, None)
        document["components"]["securitySchemes"] = {"apiKey": SCHEME}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _correct(operation)
                if needs_key(path):
                    operation["security"] = [{"apiKey": []}]
                else:
                    operation["responses"].pop("401", None)
        _remove_string_limit(document)
        app.openapi_schema = document
    return app.openapi_schema


def _remove_string_limit(part: Any) -> None:
    """The limit that every string has says nothing about any of them, and would stand in the document 400 times."""
    inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for inner in inside:
        _remove_string_limit(inner)
    if isinstance(part, dict):
        if part.get("maxLength") == MAX_STRING:
            del part["maxLength"]
        if part.get("propertyNames") == {}:
            del part["propertyNames"]


def _correct(operation: dict[str, Any]) -> None:
    """FastAPI announces a 422 wherever something is validated; ours are 400. Every answer names the request."""
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-Id"] = {"schema": {"type": "string"}}
