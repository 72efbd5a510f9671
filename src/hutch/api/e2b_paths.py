"""Leads E2B's paths to E2B's API: it has its own keys' header, its own errors, and no place in our OpenAPI."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from hutch.e2b import ROOTS


class E2bPaths:
    """By the first part of the path."""

    def __init__(self, app: ASGIApp, e2b: ASGIApp) -> None:
        self._app = app
        self._e2b = e2b

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].partition("/")[2].partition("/")[0] in ROOTS:
            return await self._e2b(scope, receive, send)
        await self._app(scope, receive, send)
