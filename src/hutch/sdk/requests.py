"""Requests, built and checked before they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from hutch.model import CreateSandbox, ExecRequest, Input, Rollback, Snapshot
from hutch.model.policies import said
from hutch.sdk.wire import refuse

AGENT_TEMPLATES = {"claude-code": "claude-code", "codex": "codex"}
"""The template that carries an agent, where the call names none."""


def exec_request(
    command: str | list[str],
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    timeout: float | None,
    **options: Any,
) -> ExecRequest:
    """A command; `InvalidRequest` when it cannot be one."""
    try:
        return ExecRequest(command=command, env=dict(env or {}), cwd=cwd, user=user, timeout=timeout, **options)
    except ValidationError as error:
        refuse(error)


def rollback_body(
    snapshot: str | Snapshot | None, turn: int | None, fallback: Literal["disk"] | None = None
) -> dict[str, Any]:
    """The body of a rollback; `InvalidRequest` unless one of the two is given."""
    id = snapshot.id if isinstance(snapshot, Snapshot) else snapshot
    try:
        return Rollback(snapshot=id, turn=turn, fallback=fallback).model_dump(exclude_none=True)
    except ValidationError as error:
        refuse(error)


def mounts_of(volumes: Mapping[str, str] | None) -> list[dict[str, str]] | None:
    """What the API calls volumes by the paths at which they are mounted."""
    return None if volumes is None else [{"name": name, "path": path} for path, name in volumes.items()]


def create_body(template: str | None, inputs: Sequence[Input], **fields: Any) -> dict[str, Any]:
    """The body of `POST /v1/sandboxes`; `InvalidRequest` when the server would refuse it."""
    given = {name: value for name, value in fields.items() if value is not None}
    if template is None and "from_snapshot" not in given:
        template = AGENT_TEMPLATES.get(str(given.get("agent")), "standard")
    chosen = {} if template is None else {"template": template}
    if "network" in given:
        given["network"] = said(given["network"])
    try:
        request = CreateSandbox.model_validate({**chosen, "inputs": list(inputs), **given})
    except ValidationError as error:
        refuse(error)
    body = request.model_dump(mode="json", exclude_defaults=True)
    if request.network is not None:
        body["network"] = request.network.model_dump(mode="json")
    if request.inputs:
        body["inputs"] = [each.model_dump() for each in request.inputs]
    if request.llm_key is not None:
        body["llm_key"] = request.llm_key.get_secret_value()
    return body | chosen
