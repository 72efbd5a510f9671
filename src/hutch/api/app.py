"""The application: routers, and the layers that every request passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import cast

from fastapi import FastAPI

from hutch.api import (
    audit,
    code,
    execs,
    files,
    gateway,
    health,
    identity,
    keys,
    node,
    policies,
    ports,
    problems,
    pty,
    sandboxes,
    secrets,
    snapshots,
    spending,
    states,
    task_stream,
    tasks,
    templates,
    uploads,
    volumes,
)
from hutch.api.auditing import Audited
from hutch.api.auth import Authenticate
from hutch.api.bodies import BodyLimit
from hutch.api.context import RequestContext
from hutch.api.e2b_paths import E2bPaths
from hutch.api.openapi import build_openapi
from hutch.control.service import Control
from hutch.e2b import create_e2b_app
from hutch.identity import KeyRing
from hutch.settings import Settings


def create_app(settings: Settings, control: Control, deliver_first_key: Callable[[str], None]) -> FastAPI:
    """The app over this control, which it starts and stops. A first key, if there has to be one, is handed over."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await control.start()
        try:
            app.state.keys = KeyRing(control.store)
            await app.state.keys.create_first(deliver_first_key)
            yield
            await app.state.keys.close()
        finally:
            await control.stop()

    app = FastAPI(
        title="Hutch",
        version=version("hutch"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.control = control
    app.state.stopping = asyncio.Event()
    app.state.gateway_port = settings.gateway_port
    app.openapi = lambda: build_openapi(app)  # type: ignore[method-assign]
    problems.install(app)
    _add_routes(app)
    app.add_middleware(Audited)
    app.add_middleware(Authenticate)  # the last one added is the outermost
    app.add_middleware(E2bPaths, e2b=create_e2b_app(settings, control, lambda: cast(KeyRing, app.state.keys)))
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestContext)
    return app


def _add_routes(app: FastAPI) -> None:
    for module in (
        *(sandboxes, ports, states, snapshots, execs, code, files, tasks, uploads, volumes),
        *(templates, secrets, policies, keys, spending, node, gateway, pty, task_stream, health, identity, audit),
    ):
        app.include_router(module.router)
