"""Connect's wire with JSON: unary calls, and streams of envelopes (flag byte, 4-byte length, message)."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from hutch_guest.accounts import Account, UnknownUser
from hutch_guest.errors import (
    AlreadyExists,
    Conflict,
    DiskFull,
    GuestError,
    InvalidRequest,
    LimitReached,
    NotFound,
    PayloadTooLarge,
    Unauthorized,
)
from hutch_guest.guest import Guest
from hutch_guest.http.messages import MAX_JSON, Body, Request, Response, Stream, dump_json, json_response
from hutch_guest.log import log_exception

STREAM_TYPE = "application/connect+json"
_ENVELOPE = struct.Struct(">BI")
_END = 2
_STATUS = {
    "canceled": 499,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "aborted": 409,
    "resource_exhausted": 429,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
_CODES: tuple[tuple[type[GuestError], str], ...] = (
    (UnknownUser, "unauthenticated"),
    (Unauthorized, "unauthenticated"),
    (InvalidRequest, "invalid_argument"),
    (NotFound, "not_found"),
    (AlreadyExists, "already_exists"),
    (Conflict, "internal"),
    (DiskFull, "resource_exhausted"),
    (LimitReached, "resource_exhausted"),
    (PayloadTooLarge, "resource_exhausted"),
)


class RpcError(GuestError):
    """An error that is told with exactly this Connect code."""

    def __init__(self, rpc_code: str, message: str) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code


def code_of(error: GuestError) -> str:
    """The Connect code of an error."""
    if isinstance(error, RpcError):
        return error.rpc_code
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal")


def error_response(request: Request, error: GuestError) -> Response:
    """The error as the caller's kind of call expects it: a status, or a stream that ends at once."""
    code = code_of(error)
    problem = {"code": code, "message": error.message}
    if request.headers.get("content-type", "").startswith("application/connect+"):
        return Response(200, end_envelope(problem), STREAM_TYPE)
    return json_response(problem, _STATUS.get(code, 500))


def envelope(message: object, flags: int = 0) -> bytes:
    """One enveloped message."""
    return raw_envelope(dump_json(message), flags)


def raw_envelope(payload: bytes, flags: int = 0) -> bytes:
    """One enveloped message that is JSON already."""
    return _ENVELOPE.pack(flags, len(payload)) + payload


def end_envelope(error: dict[str, str] | None = None) -> bytes:
    """What every stream ends with."""
    return envelope({"error": error} if error else {}, _END)


async def read_envelopes(body: Body, limit: int = MAX_JSON) -> AsyncIterator[dict[str, Any]]:
    """The messages of a request's stream."""
    buffer = bytearray()
    while piece := await body.read():
        buffer += piece
        while len(buffer) >= _ENVELOPE.size:
            flags, length = _ENVELOPE.unpack_from(buffer)
            if length > limit:
                raise PayloadTooLarge(f"a message is larger than {limit} bytes")
            if len(buffer) < _ENVELOPE.size + length:
                break
            payload = bytes(buffer[_ENVELOPE.size : _ENVELOPE.size + length])
            del buffer[: _ENVELOPE.size + length]
            if flags & 1:
                raise RpcError("unimplemented", "compressed messages are not supported")
            if not flags & _END:
                yield _message(payload)
    if buffer:
        raise InvalidRequest("the stream ends within a message")


def _message(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the message is not JSON") from error
    if not isinstance(message, dict):
        raise InvalidRequest("the message is not an object")
    return message


async def read_message(request: Request) -> dict[str, Any]:
    """The single message of a call, enveloped or not."""
    if request.headers.get("content-type", "").startswith("application/connect+"):
        async for message in read_envelopes(request.body):
            return message
        return {}
    return _message(await request.body.read_all())


def stream_response(events: Stream) -> Response:
    """Answer with a stream; whatever goes wrong in it is told in its last envelope."""

    async def whole() -> AsyncGenerator[bytes, None]:
        problem = None
        try:
            async for event in events:
                yield event
        except GuestError as error:
            problem = {"code": code_of(error), "message": error.message}
        except Exception as error:
            log_exception(error)
            problem = {"code": "internal", "message": f"internal error: {type(error).__name__}"}
        finally:
            await events.aclose()
        yield end_envelope(problem)

    return Response(200, whole(), STREAM_TYPE)


def caller(guest: Guest, request: Request) -> Account:
    """The account that a call acts as: the user of its Basic authorization, else the default."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return guest.account(None)
    try:
        name = base64.b64decode(value, validate=True).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        raise Unauthorized("malformed authorization header") from None
    return guest.account(name)


def field(message: dict[str, Any], name: str) -> Any:
    """A field by its lowerCamelCase name, or by the snake_case one that proto3 JSON allows as well."""
    if name in message:
        return message[name]
    return message.get("".join(f"_{char.lower()}" if char.isupper() else char for char in name))


def text(message: dict[str, Any], name: str) -> str:
    """A text field; empty when it is not set."""
    value = field(message, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is not a text")
    return value


def section(message: dict[str, Any], name: str) -> dict[str, Any]:
    """A nested message; empty when it is not set."""
    value = field(message, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is not an object")
    return value
