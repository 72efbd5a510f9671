"""The fleet of one machine: this one, through the node's Unix sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from hutch.errors import BY_CODE, HutchError, NodeUnavailable, from_problem
from hutch.fleet.base import Fleet, Node
from hutch.fleet.connection import Connection, Cut, Silent
from hutch.fleet.dialing import LocalDialer
from hutch.fleet.guest import GuestClient
from hutch.fleet.pool import Exchange, Pool, framing, head_of
from hutch.fleet.transport import GuestTransport
from hutch.model import (
    BootRequest,
    Diff,
    DiffRequest,
    Held,
    HoldRequest,
    IdentityAnswer,
    IdentityRequest,
    JournalEntry,
    KeepLayer,
    LayerInfo,
    LlmGrant,
    MadeTemplate,
    Model,
    NetworkPolicy,
    NodeInfo,
    NodeSandbox,
    OrgBudget,
    PauseRequest,
    Resources,
    ResumeRequest,
    RollbackRequest,
    SnapshotRecord,
    SnapshotRequest,
    SnapshotUsage,
    TemplateInfo,
)
from hutch.model.egress import EgressEntry
from hutch.model.grant import SecretGrant
from hutch.settings import Settings

_BOOT_TIMEOUT = 120.0
_STATE_TIMEOUT = 600.0
"""Saving or loading memory: the runtime has limits of its own, by the size of the sandbox."""
_CALL_TIMEOUT = 30.0
_BUILD_SILENCE = 1800.0
_CONNECT_TIMEOUT = 15.0
_MAX_IDLE = 64
_NAME = "local"
M = TypeVar("M", bound=Model)
_Policy: TypeAdapter[NetworkPolicy] = TypeAdapter(NetworkPolicy)
_Budgets: TypeAdapter[dict[str, OrgBudget]] = TypeAdapter(dict[str, OrgBudget])


class LocalNode(Node):
    """The daemon on this machine."""

    name = _NAME

    def __init__(self, settings: Settings) -> None:
        self._socket = settings.node_socket
        self._pool = Pool(self._connect, _MAX_IDLE)
        self._guests = GuestTransport(LocalDialer(settings.dial_socket))

    async def info(self) -> NodeInfo:
        return _parse(NodeInfo, await self._call("GET", "/health", timeout=5.0))

    async def boot(self, sandbox_id: str, request: BootRequest) -> NodeSandbox:
        body = request.model_dump_json()
        return _parse(
            NodeSandbox, await self._call("PUT", f"/sandboxes/{sandbox_id}", body=body, timeout=_BOOT_TIMEOUT)
        )

    async def sandboxes(self) -> list[NodeSandbox]:
        return [_parse(NodeSandbox, found) for found in (await self._call("GET", "/sandboxes"))["sandboxes"]]

    async def sandbox(self, sandbox_id: str) -> NodeSandbox | None:
        found = await self._call("GET", f"/sandboxes/{sandbox_id}", none_for_404=True)
        return _parse(NodeSandbox, found) if found is not None else None

    async def destroy(self, sandbox_id: str) -> NodeSandbox | None:
        found = await self._call("DELETE", f"/sandboxes/{sandbox_id}", timeout=_BOOT_TIMEOUT, none_for_404=True)
        return _parse(NodeSandbox, found) if found is not None else None

    async def pause(self, sandbox_id: str, request: PauseRequest) -> NodeSandbox:
        return _parse(NodeSandbox, await self._change(f"/sandboxes/{sandbox_id}/pause", request))

    async def resume(self, sandbox_id: str, request: ResumeRequest) -> NodeSandbox:
        return _parse(NodeSandbox, await self._change(f"/sandboxes/{sandbox_id}/resume", request))

    async def snapshot(self, sandbox_id: str, request: SnapshotRequest) -> SnapshotRecord:
        return _parse(SnapshotRecord, await self._change(f"/sandboxes/{sandbox_id}/snapshots", request))

    async def rollback(self, sandbox_id: str, request: RollbackRequest) -> NodeSandbox:
        return _parse(NodeSandbox, await self._change(f"/sandboxes/{sandbox_id}/rollback", request))

    async def snapshots(self, sandbox_id: str | None = None, org: str | None = None) -> list[SnapshotRecord]:
        found = await self._call("GET", "/snapshots", query=_given(sandbox=sandbox_id, org=org))
        return [_parse(SnapshotRecord, record) for record in found["snapshots"]]

    async def find_snapshot(self, snapshot_id: str) -> SnapshotRecord | None:
        found = await self._call("GET", f"/snapshots/{snapshot_id}", none_for_404=True)
        return _parse(SnapshotRecord, found) if found is not None else None

    async def diff(self, sandbox_id: str, request: DiffRequest) -> Diff:
        return _parse(Diff, await self._change(f"/sandboxes/{sandbox_id}/diff", request))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await self._call("DELETE", f"/snapshots/{snapshot_id}", none_for_404=True)

    async def snapshot_usage(self, org: str | None) -> SnapshotUsage:
        return _parse(SnapshotUsage, await self._call("GET", "/snapshots/usage", query=_given(org=org)))

    async def export_snapshot(self, snapshot_id: str) -> AsyncGenerator[bytes, None]:
        exchange = await self._exchange("GET", f"/snapshots/{snapshot_id}/archive", None, None, _STATE_TIMEOUT)
        if exchange.status >= 400:
            raise _error(exchange.status, await _whole(exchange))
        return _pieces(exchange)

    async def import_snapshot(
        self, archive: AsyncIterator[bytes], org: str | None, created_by: str | None
    ) -> SnapshotRecord:
        query = _given(org=org, created_by=created_by)
        return _parse(
            SnapshotRecord, await self._call("POST", "/snapshots", query=query, body=archive, timeout=_STATE_TIMEOUT)
        )

    async def set_deadline(self, sandbox_id: str, deadline: float) -> None:
        await self._call("PUT", f"/sandboxes/{sandbox_id}/deadline", body=json.dumps({"deadline": deadline}))

    async def set_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        body = _Policy.dump_json(policy).decode()
        await self._call("PUT", f"/sandboxes/{sandbox_id}/network", body=body)

    async def egress(self, sandbox_id: str, after: int, limit: int, wait: float) -> list[EgressEntry]:
        query = {"after": str(after), "limit": str(limit), "wait": str(wait)}
        path = f"/sandboxes/{sandbox_id}/egress"
        found = await self._call("GET", path, query=query, timeout=wait + _CALL_TIMEOUT)
        return [_parse(EgressEntry, each) for each in found["entries"]]

    async def set_llm(self, sandbox_id: str, grant: LlmGrant | None) -> None:
        body = grant.model_dump_json() if grant is not None else "null"
        await self._call("PUT", f"/sandboxes/{sandbox_id}/llm", body=body)

    async def set_llm_budgets(self, budgets: Mapping[str, OrgBudget]) -> None:
        body = _Budgets.dump_json(dict(budgets)).decode()
        await self._call("PUT", "/llm/budgets", body=body)

    async def tell_orphans(self, sandbox_ids: Iterable[str]) -> None:
        await self._call("PUT", "/orphans", body=json.dumps(sorted(sandbox_ids)))

    async def set_secrets(self, sandbox_id: str, grant: SecretGrant | None) -> None:
        body = grant.model_dump_json() if grant is not None else "null"
        await self._call("PUT", f"/sandboxes/{sandbox_id}/secrets", body=body)

    async def hold_llm(self, sandbox_id: str, within: float, seconds: float) -> Held:
        body = HoldRequest(within=within, seconds=seconds).model_dump_json()
        path, timeout = f"/sandboxes/{sandbox_id}/llm/hold", within + _CALL_TIMEOUT
        return _parse(Held, await self._call("POST", path, body=body, timeout=timeout))

    async def release_llm(self, sandbox_id: str) -> None:
        await self._call("DELETE", f"/sandboxes/{sandbox_id}/llm/hold", none_for_404=True)

    async def journal(self, after: int, wait: float) -> list[JournalEntry]:
        query = {"after": after, "wait": wait}
        found = await self._call("GET", "/journal", query=query, timeout=wait + _CALL_TIMEOUT)
        return [_parse(JournalEntry, entry) for entry in found["entries"]]

    async def identity_requests(self, wait: float) -> list[IdentityRequest]:
        found = await self._call("GET", "/identity", query={"wait": str(wait)}, timeout=wait + _CALL_TIMEOUT)
        return [_parse(IdentityRequest, each) for each in found["requests"]]

    async def answer_identity(self, answer: IdentityAnswer) -> None:
        await self._call("POST", "/identity", body=answer.model_dump_json())

    async def templates(self) -> list[TemplateInfo]:
        return [_parse(TemplateInfo, found) for found in (await self._call("GET", "/templates"))["templates"]]

    async def template(self, name: str) -> TemplateInfo:
        return _parse(TemplateInfo, await self._call("GET", f"/templates/{quote(name, safe='')}"))

    async def build_template(self, name: str, force: bool) -> AsyncIterator[dict[str, Any]]:
        return await self._building("POST", f"/templates/{name}/build", json.dumps({"force": force}))

    async def find_layer(self, key: str) -> LayerInfo | None:
        found = await self._call("GET", f"/layers/{key}", none_for_404=True)
        return _parse(LayerInfo, found) if found is not None else None

    async def keep_layer(self, sandbox_id: str, key: str) -> LayerInfo:
        return _parse(LayerInfo, await self._change(f"/sandboxes/{sandbox_id}/layer", KeepLayer(key=key)))

    async def take_in_layer(self, key: str, stream: AsyncIterator[bytes]) -> LayerInfo:
        return _parse(LayerInfo, await self._call("PUT", f"/layers/{key}", body=stream, timeout=_STATE_TIMEOUT))

    async def make_template(self, name: str, wanted: MadeTemplate) -> AsyncIterator[dict[str, Any]]:
        return await self._building("PUT", f"/templates/{name}", wanted.model_dump_json())

    async def remove_template(self, name: str) -> None:
        await self._call("DELETE", f"/templates/{name}", timeout=_STATE_TIMEOUT)

    def guest(self, sandbox_id: str, token: str) -> GuestClient:
        return GuestClient(self._guests, sandbox_id, token)

    async def aclose(self) -> None:
        await self._pool.aclose()
        await self._guests.aclose()

    async def _building(self, method: str, path: str, body: str) -> AsyncIterator[dict[str, Any]]:
        exchange = await self._exchange(method, path, None, body, _BUILD_SILENCE)
        if exchange.status >= 400:
            raise _error(exchange.status, await _whole(exchange))
        return _messages(exchange)

    async def _change(self, path: str, request: Model | None = None) -> Any:
        """A change of state: as slow as the sandbox is large."""
        body = request.model_dump_json() if request is not None else None
        return await self._call("POST", path, body=body, timeout=_STATE_TIMEOUT)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: str | AsyncIterator[bytes] | None = None,
        timeout: float = _CALL_TIMEOUT,
        none_for_404: bool = False,
    ) -> Any:
        exchange = await self._exchange(method, path, query, body, timeout)
        answer = await _whole(exchange)
        if exchange.status == 404 and none_for_404:
            return None
        if exchange.status >= 400:
            raise _error(exchange.status, answer)
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise NodeUnavailable("the node answered nonsense") from error

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: str | AsyncIterator[bytes] | None,
        timeout: float,
    ) -> Exchange:
        content = body.encode() if isinstance(body, str) else body
        headers = [("Host", "node"), framing(content, None)]
        if isinstance(body, str):
            headers.append(("Content-Type", "application/json"))
        try:
            return await self._pool.exchange(
                _NAME,
                head_of(method, path, query, headers),
                content,
                again=method in ("GET", "DELETE"),
                write_timeout=timeout,
                read_timeout=timeout,
            )
        except (Cut, Silent) as error:
            raise NodeUnavailable("the node does not answer") from error

    async def _connect(self, _: str, factory: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                _transport, connection = await loop.create_unix_connection(factory, str(self._socket))
        except OSError as error:  # a `TimeoutError` is one too
            raise NodeUnavailable("the node does not answer") from error
        connection.connected()
        return connection


class LocalFleet(Fleet):
    """One node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._node: LocalNode | None = None

    async def start(self) -> None:
        self._node = LocalNode(self._settings)

    async def stop(self) -> None:
        if self._node is not None:
            await self._node.aclose()
            self._node = None

    def nodes(self) -> list[Node]:
        return [self._node] if self._node is not None else []

    def node(self, name: str) -> Node:
        if name != _NAME or self._node is None:
            raise NodeUnavailable(f"the node {name} is not of this fleet")
        return self._node

    async def place(self, resources: Resources) -> Node:
        return self.node(_NAME)


def _parse(model: type[M], found: Any) -> M:
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise NodeUnavailable("the node answered nonsense; is it of another version?") from error


def _given(**query: str | None) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}


async def _pieces(exchange: Exchange) -> AsyncGenerator[bytes, None]:
    try:
        while data := await exchange.read():
            yield data
    except (Cut, Silent) as error:
        raise NodeUnavailable("the node hung up in the middle of the snapshot") from error
    finally:
        exchange.close()


async def _whole(exchange: Exchange) -> bytes:
    try:
        answer = bytearray()
        while data := await exchange.read():
            answer += data
        return bytes(answer)
    except (Cut, Silent) as error:
        raise NodeUnavailable("the node does not answer") from error
    finally:
        exchange.close()


async def _messages(exchange: Exchange) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    try:
        while data := await exchange.read():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line:
                    yield json.loads(line)
        if rest:
            yield json.loads(rest)
    except (Cut, Silent) as error:
        raise NodeUnavailable("the node hung up while it built the template") from error
    finally:
        exchange.close()


def _error(status: int, body: bytes) -> HutchError:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or problem.get("code") not in BY_CODE:
        return NodeUnavailable(f"the node answered {status}")
    return from_problem(problem)
