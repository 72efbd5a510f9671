"""What the gateway itself answers, in the words that E2B's clients look for."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from hutch.http1.heads import Fields, dump_answer
from hutch.model.e2b import e2b_sandbox_id

CORS: Fields = [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Expose-Headers", b"*")]
_PREFLIGHT: Fields = [
    *CORS,
    (b"Access-Control-Allow-Methods", b"*"),
    (b"Access-Control-Allow-Headers", b"*"),
    (b"Access-Control-Max-Age", b"7200"),
]


class Refusal(Exception):
    """An answer of ours in a sandbox's place."""

    def __init__(self, status: int, body: dict[str, Any] | str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self._body = body

    def render(self, close: bool, head_only: bool = False) -> bytes:
        """As it goes onto the wire."""
        plain = isinstance(self._body, str)
        body = (self._body + "\n" if isinstance(self._body, str) else json.dumps(self._body)).encode()
        fields: Fields = [
            (b"Content-Type", b"text/plain; charset=utf-8" if plain else b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            *CORS,
        ]
        return answer(self.status, fields, close) + (b"" if head_only else body)


def answer(status: int, fields: Fields, close: bool) -> bytes:
    """The head of an answer of ours."""
    ending: Fields = [(b"Connection", b"close")] if close else []
    return dump_answer(status, HTTPStatus(status).phrase.encode(), fields + ending)


def preflight(close: bool) -> bytes:
    """To a browser that asks whether it may: the tokens decide, not where a page comes from."""
    return answer(204, _PREFLIGHT, close)


def not_found(sandbox_id: str) -> Refusal:
    """It is not there, or paused: nobody tells which to whom it does not concern."""
    id = e2b_sandbox_id(sandbox_id)
    return Refusal(502, {"sandboxId": id, "message": "The sandbox was not found", "code": 502})


def port_closed(sandbox_id: str, port: int) -> Refusal:
    """Nothing listens there."""
    message = "The sandbox is running but port is not open"
    return Refusal(502, {"sandboxId": e2b_sandbox_id(sandbox_id), "message": message, "port": port, "code": 502})


def no_tls(sandbox_id: str, port: int) -> Refusal:
    """It is one of those that speak TLS, and does not."""
    message = "The sandbox is running but port does not speak TLS, as `httpsPorts` says"
    return Refusal(502, {"sandboxId": e2b_sandbox_id(sandbox_id), "message": message, "port": port, "code": 502})


def cut(sandbox_id: str, port: int) -> Refusal:
    """The port hung up, or what it sent is no HTTP."""
    message = "The sandbox is running but its answer was cut"
    return Refusal(502, {"sandboxId": e2b_sandbox_id(sandbox_id), "message": message, "port": port, "code": 502})


def unavailable(message: str) -> Refusal:
    """Not just now."""
    return Refusal(503, {"message": message, "code": 503})


def too_many() -> Refusal:
    """More connections than the server may have."""
    return Refusal(429, {"message": "too many connections", "code": 429})


def unauthorized(message: str) -> Refusal:
    """The guest's own words."""
    return Refusal(401, {"code": 401, "message": message})


def forbidden(sandbox_id: str) -> Refusal:
    """The port is private."""
    message = "Sandbox is secured with a traffic access token: send it as e2b-traffic-access-token"
    return Refusal(403, {"sandboxId": e2b_sandbox_id(sandbox_id), "message": message, "code": 403})


def internal_route(path: str) -> Refusal:
    """A call that is the host's alone, or none at all."""
    return Refusal(404, {"code": 404, "message": f"no such call: {path[:200]}"})
