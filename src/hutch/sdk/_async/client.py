"""The client: one server, and everything on it."""

from __future__ import annotations

import builtins
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from hutch.errors import from_problem
from hutch.model import (
    ApiKey,
    Budget,
    Checkpoints,
    GatewayInfo,
    Identity,
    Input,
    Issuer,
    NetworkPolicy,
    NewApiKey,
    NodeInfo,
    OrgBudget,
    OrgSpending,
    ResourcesOverride,
    TemplateInfo,
    UploadInput,
    Volume,
    VolumeList,
)
from hutch.model import Sandbox as SandboxInfo
from hutch.model import Task as TaskInfo
from hutch.model.audit import AuditPage
from hutch.sdk._async.following import lines_of
from hutch.sdk._async.policies import AsyncPolicies
from hutch.sdk._async.sandbox import AsyncSandbox
from hutch.sdk._async.secrets import AsyncSecrets
from hutch.sdk._async.snapshots import AsyncSnapshots
from hutch.sdk._async.task import AsyncTask
from hutch.sdk._async.transport import LOST, SILENCE, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.config import find_server
from hutch.sdk.inputs import AnyInput, LocalInput, read_input
from hutch.sdk.requests import create_body, mounts_of
from hutch.sdk.tar import pack
from hutch.sdk.wire import parse, unexpected

UPLOAD_TIMEOUT = 600.0
Watch = Callable[[LocalInput, Iterator[bytes]], Iterator[bytes]]
"""Sees the bytes of a local input go by, for progress bars."""


class AsyncHutch:
    """A server. Its address and key: arguments, over `HUTCH_URL` and `HUTCH_API_KEY`, over the credentials file that
    `hutch up` writes."""

    def __init__(self, url: str | None = None, api_key: str | None = None, *, request_timeout: float = 60.0) -> None:
        self.transport = AsyncTransport(find_server(url, api_key), request_timeout)
        self.sandboxes = AsyncSandboxes(self)
        self.snapshots = AsyncSnapshots(self.transport)
        self.tasks = AsyncTasks(self)
        self.templates = AsyncTemplates(self)
        self.secrets = AsyncSecrets(self.transport)
        self.policies = AsyncPolicies(self.transport)
        self.keys = AsyncKeys(self)
        self.volumes = AsyncVolumes(self)
        self.identity = AsyncIdentityKeys(self)
        self.llm = AsyncLlm(self)
        self.audit = AsyncAudit(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Sandboxes live on."""
        await self.transport.aclose()

    async def node(self) -> NodeInfo:
        """The health and size of the node."""
        return parse(NodeInfo, await self.transport.json("GET", "/v1/node"))

    async def gateway(self) -> GatewayInfo:
        """Where the ports of sandboxes are reached."""
        return parse(GatewayInfo, await self.transport.json("GET", "/v1/gateway"))

    async def upload(self, local: LocalInput, watch: Watch | None = None) -> UploadInput:
        """Send a local input ahead of a task; give the answer as one of its `inputs`."""
        await aio.in_thread(local.check)

        def chunks() -> Iterator[bytes]:
            tar = pack(local.path, local.name, local.exclude)
            return watch(local, tar) if watch else tar

        answer = await self.transport.json(
            "POST",
            "/v1/uploads",
            content=lambda: aio.iterate(chunks()),
            headers={"Content-Type": "application/x-tar"},
            timeout=UPLOAD_TIMEOUT,
        )
        return UploadInput(type="upload", upload=answer["id"])


class AsyncSandboxes:
    """The sandboxes of a server."""

    def __init__(self, client: AsyncHutch) -> None:
        self._client = client
        self._transport = client.transport

    async def create(
        self,
        template: str | None = None,
        *,
        agent: str | None = None,
        task: str | None = None,
        llm_key: str | None = None,
        llm_provider: str | None = None,
        provider_tools: Literal["allow", "deny"] | None = None,
        model: str | None = None,
        inputs: Sequence[AnyInput] = (),
        outputs: Sequence[str] = (),
        budget: Budget | None = None,
        checkpoints: Checkpoints | None = None,
        keep: bool = False,
        network: NetworkPolicy | str | Sequence[str] | None = None,
        resources: ResourcesOverride | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        volumes: Mapping[str, str] | None = None,
        public_ports: Sequence[int] = (),
        lifetime: float | None = None,
        idle_timeout: float | None = None,
        from_snapshot: str | None = None,
        fallback: Literal["disk"] | None = None,
        request_timeout: float | None = None,
        idempotency_key: str | None = None,
        watch: Watch | None = None,
    ) -> AsyncSandbox:
        """See `AsyncSandbox.create`. The call carries an `Idempotency-Key`, so that it is safely repeated when the
        connection is lost or the server is away for a moment: there is only ever one sandbox of it."""
        sources = [read_input(each) for each in inputs]
        for each in sources:
            if isinstance(each, LocalInput):
                await aio.in_thread(each.check)
        fields: dict[str, Any] = {
            "agent": agent,
            "task": task,
            "llm_key": llm_key,
            "llm_provider": llm_provider,
            "provider_tools": provider_tools,
            "model": model,
            "outputs": list(outputs),
            "budget": budget,
            "checkpoints": checkpoints,
            "keep": keep,
            "network": network,
            "resources": resources,
            "env": dict(env or {}),
            "secrets": list(secrets),
            "labels": dict(labels or {}),
            "identity": identity,
            "volumes": mounts_of(volumes),
            "public_ports": list(public_ports),
            "lifetime": lifetime,
            "idle_timeout": idle_timeout,
            "from_snapshot": from_snapshot,
            "fallback": fallback,
        }
        create_body(template, [], **fields)  # refused before anything is uploaded
        sent: builtins.list[Input] = [
            await self._client.upload(each, watch) if isinstance(each, LocalInput) else each for each in sources
        ]
        answer = await self._transport.json(
            "POST",
            "/v1/sandboxes",
            body=create_body(template, sent, **fields),
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            repeat=True,
            timeout=request_timeout or max(120.0, self._transport.request_timeout),
        )
        return AsyncSandbox(self._client, parse(SandboxInfo, answer))

    async def get(self, id: str) -> AsyncSandbox:
        """A sandbox that exists; a paused one sleeps on. `SandboxNotFound` when there is none."""
        answer = await self._transport.json("GET", at("sandboxes", id))
        return AsyncSandbox(self._client, parse(SandboxInfo, answer))

    async def list(
        self, *, all: bool = False, labels: Mapping[str, str] | None = None, state: str | None = None
    ) -> builtins.list[SandboxInfo]:
        """The sandboxes, newest first; with `all`, ended ones too."""
        params = {
            "all": "true" if all else None,
            "state": state,
            "label": [f"{name}={value}" for name, value in (labels or {}).items()] or None,
        }
        return [parse(SandboxInfo, each) async for each in _pages(self._transport, "sandboxes", params)]


class AsyncTasks:
    """The tasks of a server."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def get(self, id: str) -> AsyncTask:
        """A task. `TaskNotFound` when there is none."""
        return AsyncTask(self._transport, parse(TaskInfo, await self._transport.json("GET", at("tasks", id))))

    async def list(self, *, sandbox: str | None = None, state: str | None = None) -> builtins.list[TaskInfo]:
        """The tasks, newest first."""
        params = {"sandbox": sandbox, "state": state}
        return [parse(TaskInfo, each) async for each in _pages(self._transport, "tasks", params)]


class AsyncTemplates:
    """The templates of a server."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def list(self) -> builtins.list[TemplateInfo]:
        """All templates, built or not."""
        answer = await self._transport.json("GET", "/v1/templates")
        return [parse(TemplateInfo, each) for each in answer["templates"]]

    async def messages(self, name: str, *, force: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Build a template and give the messages as it goes: `log`, `progress`, and at the end `done`."""
        async with self._transport.stream(
            "POST", at("templates", name, "build"), body={"force": force}, timeout=max(SILENCE, 900.0)
        ) as response:
            try:
                async for line in lines_of(response.aiter_text()):
                    if line:
                        message = json.loads(line)
                        if message["type"] == "error":
                            raise from_problem(message["problem"])
                        yield message
            except LOST as error:
                raise self._transport.lost(error) from error

    async def build(self, name: str, *, force: bool = False) -> TemplateInfo:
        """Build a template and wait until it is done."""
        async for message in self.messages(name, force=force):
            if message["type"] == "done":
                return parse(TemplateInfo, message["template"])
        raise unexpected("the build's messages ended before it was done")


class AsyncVolumes:
    """The volumes of a server. Sandboxes have them by `volumes` of their making."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def list(self) -> VolumeList:
        """All of them, and what they take together."""
        return parse(VolumeList, await self._transport.json("GET", "/v1/volumes"))

    async def create(self, name: str) -> Volume:
        """Make an empty one. `AlreadyExists` when there is one of this name."""
        return parse(Volume, await self._transport.json("POST", "/v1/volumes", body={"name": name}))

    async def get(self, name: str) -> Volume:
        """One of them, by its name or id. `VolumeNotFound` when there is none."""
        return parse(Volume, await self._transport.json("GET", at("volumes", name)))

    async def delete(self, name: str) -> None:
        """Delete it with its files. `Conflict` while a sandbox has it."""
        await self._transport.request("DELETE", at("volumes", name))


class AsyncKeys:
    """The API keys of a server."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def list(self) -> builtins.list[ApiKey]:
        """All keys, without their secrets."""
        return [parse(ApiKey, each) for each in (await self._transport.json("GET", "/v1/keys"))["keys"]]

    async def create(self, name: str, *, expires_in: float | None = None) -> NewApiKey:
        """Make a key. Its `key` is never shown again."""
        body = {"name": name} | ({} if expires_in is None else {"expires_in": expires_in})
        return parse(NewApiKey, await self._transport.json("POST", "/v1/keys", body=body))

    async def revoke(self, id: str) -> None:
        """End a key, at once."""
        await self._transport.request("DELETE", at("keys", id))


class AsyncLlm:
    """What the organisation spends on model providers."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def spending(self) -> OrgSpending:
        """Its budget, and what it has spent today and this month."""
        return parse(OrgSpending, await self._transport.json("GET", "/v1/llm/budget"))

    async def set_budget(self, budget: OrgBudget) -> OrgSpending:
        """Set all limits at once; what is unset is unlimited."""
        body = budget.model_dump(mode="json", exclude_none=True)
        return parse(OrgSpending, await self._transport.json("PUT", "/v1/llm/budget", body=body))


class AsyncIdentityKeys:
    """The issuer of sandboxes' identity tokens."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def get(self) -> Issuer:
        """The issuer and its keys."""
        return parse(Issuer, await self._transport.json("GET", "/v1/identity"))

    async def rotate(self, *, grace: float | None = None) -> Issuer:
        """Have the next key sign. Tokens of the old one hold for `grace` seconds more; by default, as the server's
        settings say."""
        body = {} if grace is None else {"grace": grace}
        return parse(Issuer, await self._transport.json("POST", "/v1/identity/rotate", body=body))


class AsyncAudit:
    """The organisation's audit log."""

    def __init__(self, client: AsyncHutch) -> None:
        self._transport = client.transport

    async def page(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
    ) -> AuditPage:
        """Records behind the one numbered `after`, oldest first."""
        params = {"after": after, "limit": limit, "subject": subject, "actor": actor, "action": action}
        return parse(AuditPage, await self._transport.json("GET", "/v1/audit", params=params))

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """The whole log, line by line, as `hutch.model.audit.Verifier` reads it."""
        async with self._transport.stream("GET", "/v1/audit/export", timeout=SILENCE) as response:
            try:
                async for line in lines_of(response.aiter_text()):
                    if line:
                        yield json.loads(line)
            except LOST as error:
                raise self._transport.lost(error) from error


async def _pages(transport: AsyncTransport, noun: str, params: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """All items of a list, page by page."""
    cursor = None
    while True:
        page = await transport.json("GET", at(noun), params={**params, "limit": 500, "cursor": cursor})
        for item in page[noun]:
            yield item
        cursor = page.get("next_cursor")
        if not cursor:
            return
