"""Every call with a key is in the audit log: one that may change something before it is carried out, and each one
before it is answered. What cannot be recorded is not done."""

from __future__ import annotations

from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from hutch.api.bodies import ahead
from hutch.api.problems import ProblemResponse
from hutch.api.sockets import refuse
from hutch.control.audit import call
from hutch.control.service import Control
from hutch.errors import HutchError
from hutch.identity import Caller
from hutch.store.audit import acting

_READS = ("GET", "HEAD", "OPTIONS")


class Audited:
    """Stands behind `Authenticate`: there is a caller, or there is nothing to record."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        if scope["type"] not in ("http", "websocket") or caller is None:
            return await self._app(scope, receive, send)
        with acting(caller.key_id, scope["state"].get("request_id", "")):
            try:
                receive = await _begin(scope, receive, caller)
            except HutchError as error:
                if scope["type"] == "websocket":
                    return await refuse(WebSocket(scope, receive, send), error)
                return await ProblemResponse(error)(scope, receive, send)
            ending = _Ending(scope, send, caller)
            try:
                await self._app(scope, receive, ending.send)
            except Exception:
                if ending.unrecorded is not None:
                    return await ProblemResponse(ending.unrecorded)(scope, receive, send)
                await _failed(scope, caller)
                raise


async def _begin(scope: Scope, receive: Receive, caller: Caller) -> Receive:
    """Records a call that may change something; what its body is read by from then on."""
    method = scope.get("method", "WS")
    if method in _READS:
        return receive
    body, receive = await _peek(scope, receive)
    event = call(caller.org, "begun", method, scope["path"], scope["query_string"].decode("latin-1"), body)
    await _control(scope).store.audit.record(event)
    return receive


class _Ending:
    """Sends an answer when it is recorded. (A WebSocket has none.)"""

    def __init__(self, scope: Scope, send: Send, caller: Caller) -> None:
        self._scope, self._send, self._caller = scope, send, caller
        self._wanted = scope["app"].state.settings.audit_reads or scope.get("method") not in _READS
        self.unrecorded: HutchError | None = None
        """Why there is no answer but this."""

    async def send(self, message: Message) -> None:
        if self._wanted and message["type"] == "http.response.start":
            await self._record(str(message["status"]))
        await self._send(message)

    async def _record(self, status: str) -> None:
        event = call(self._caller.org, status, self._scope["method"], self._scope["path"])
        try:
            await _control(self._scope).store.audit.record(event)
        except HutchError as error:
            self.unrecorded = error
            raise
        self.unrecorded = None


async def _failed(scope: Scope, caller: Caller) -> None:
    """Our own fault: whoever stands around us answers 500."""
    method = scope.get("method", "WS")
    if method not in _READS or scope["app"].state.settings.audit_reads:
        with suppress(Exception):  # it may be what failed
            await _control(scope).store.audit.record(call(caller.org, "failed", method, scope["path"]))


async def _peek(scope: Scope, receive: Receive) -> tuple[bytes, Receive]:
    """A body of JSON, ahead of whoever reads it; empty for any other. By the type alone, in whatever form it is sent:
    no caller chooses that a body is acted on and not recorded."""
    if scope["type"] != "http" or "json" not in Headers(scope=scope).get("content-type", "").lower():
        return b"", receive
    return await ahead(scope, receive)


def _control(scope: Scope) -> Control:
    control: Control = scope["app"].state.control
    return control
