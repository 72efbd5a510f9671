"""URLs, as the one who asks can reach them."""

from __future__ import annotations

from fastapi import Request

from hutch.model import Sandbox, Task
from hutch.settings import Settings


def task_with_urls(request: Request, task: Task) -> Task:
    """The task with both of its stream URLs, on the host that the request was sent to."""
    base = str(request.base_url).rstrip("/")
    socket_base = "ws" + base.removeprefix("http")
    path = f"/v1/tasks/{task.id}"
    return task.model_copy(update={"events_url": f"{base}{path}/events", "stream_url": f"{socket_base}{path}/stream"})


def sandbox_with_urls(request: Request, sandbox: Sandbox) -> Sandbox:
    """The same for the task inside a sandbox."""
    if sandbox.task is None:
        return sandbox
    return sandbox.model_copy(update={"task": task_with_urls(request, sandbox.task)})


def gateway_url(request: Request, settings: Settings) -> str:
    """The gateway's plain port, on the host that the request was sent to."""
    port: int = request.app.state.gateway_port
    host = request.url.hostname or settings.host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
