"""The OpenAPI 3.1 document: FastAPI's, told the truth about errors and about what needs a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hutch.api.schemas import Problem

DESCRIPTION = """Sandboxes for AI agents, self-hosted. Errors are `application/problem+json` (RFC 9457) with a stable
`code`; every answer has an `X-Request-Id`. Beside what is listed here there are two WebSockets:
`/v1/sandboxes/{id}/pty` and `/v1/tasks/{id}/stream`."""

_NEVER = ("HTTPValidationError", "ValidationError")


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for name in _NEVER:
            schemas.pop(name, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                _correct(operation)
        app.openapi_schema = document
    return app.openapi_schema


def _correct(operation: dict[str, Any]) -> None:
    """FastAPI announces a 422 wherever something is validated; ours are 400. Every answer names the request."""
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-Id"] = {"schema": {"type": "string"}}
