"""What is wrong with a request, for the one who sent it: which field, what it was, what would be right.

A value is shown only where it cannot be a secret: short scalars of known fields. An unknown field may be a misspelt
`llm_key`, and a whole object may hold one, so neither is ever repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hutch.errors import InvalidRequest

_SECRET_FIELDS = {"llm_key", "env", "key", "token", "value", "stdin", "task", "authorization", "url"}
_SECRET_VALUES = re.compile(r"(sk|hk|pk|gh[pousr]|xox.|AKIA|eyJ)[-_A-Za-z0-9]")
_LONGEST_VALUE = 64
_MOST_ERRORS = 16
_PLACES = {"body", "query", "path", "header", "cookie"}


def explain(errors: Sequence[Mapping[str, Any]], content_type: str | None) -> InvalidRequest:
    """The error that stands for pydantic's list: the first one in full, all of them in `errors`."""
    described = [_describe(error) for error in errors[:_MOST_ERRORS]]
    first = described[0]
    if errors[0]["type"] == "json_invalid":
        return InvalidRequest("the body is not valid JSON: " + first["message"], field="body")
    if first["field"] == "body" and errors[0]["type"] != "missing" and not _is_json(content_type):
        hint = "Send `Content-Type: application/json` and a JSON object."
        return InvalidRequest("the body of this call is JSON", hint=hint, field="Content-Type", value=content_type)
    extra = {"value": first["value"]} if "value" in first else {}
    return InvalidRequest(f"{first['field']}: {first['message']}", field=first["field"], errors=described, **extra)


def _describe(error: Mapping[str, Any]) -> dict[str, Any]:
    location = [str(part) for part in error["loc"]]
    path = location[1:] if location and location[0] in _PLACES else location
    field = _shorten(".".join(path)) if path else location[0]
    described: dict[str, Any] = {"field": field, "message": _message(error)}
    if (
        error["type"] not in ("missing", "extra_forbidden", "json_invalid")
        and path
        and _may_be_shown(path, error["input"])
    ):
        value = error["input"]
        described["value"] = _shorten(value) if isinstance(value, str) else value
    return described


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"{error['ctx']['error']} at character {error['loc'][-1]}"
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _may_be_shown(path: Sequence[str], value: object) -> bool:
    if not isinstance(value, str | int | float | bool | None):
        return False
    if any(part.lower() in _SECRET_FIELDS for part in path):
        return False
    return not (isinstance(value, str) and _SECRET_VALUES.match(value)) and _is_json_number(value)


def _is_json_number(value: object) -> bool:
    """JSON knows no NaN and no infinity, and some readers no integers of a thousand digits."""
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    return not (isinstance(value, int) and abs(value) >= 1 << 63)


def _shorten(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= _LONGEST_VALUE else clean[: _LONGEST_VALUE - 1] + "…"


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
