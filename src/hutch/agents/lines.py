"""Reading a line that an agent printed. It comes from a hostile place: everything is bounded and made harmless."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from hutch.agents.base import MAX_LINE, Parsed
from hutch.model import EventType

MAX_TEXT = 64 << 10
"""Longest text in an event, in characters."""

_SHOWN_OF_LONG = 4 << 10
_MAX_DEPTH = 24
_MAX_ITEMS = 2000


def load(line: bytes) -> dict[str, Any] | None:
    """The JSON object on the line, clean; None when it is none, or too long to look at."""
    if len(line) > MAX_LINE or not line.lstrip().startswith(b"{"):
        return None
    try:
        value = clean(json.loads(line, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def output(line: bytes, *, keep_blank: bool = False) -> list[Parsed]:
    """The event of a line that is not understood; none for an empty one, unless `keep_blank`."""
    shown = line[:_SHOWN_OF_LONG] if len(line) > MAX_LINE else line[:MAX_TEXT]
    text = str(clean(shown.decode("utf-8", "replace").rstrip("\r")))
    if not text.strip() and not keep_blank:
        return []
    data: dict[str, Any] = {"stream": "stdout", "text": text}
    if len(shown) < len(line):
        data["truncated_bytes"] = len(line) - len(shown)
    return [Parsed(EventType.OUTPUT, data)]


def note(message: str) -> list[Parsed]:
    """The event of a warning that the agent gave about itself."""
    return [Parsed(EventType.OUTPUT, {"stream": "stderr", "text": message})] if message else []


def clean(value: Any, depth: int = 0) -> Any:
    """`value` without what a database or a client would choke on: lone surrogates, NULs, infinities, endless
    nesting, endless texts."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value[:_MAX_ITEMS]]
    if isinstance(value, dict):
        return {_clean_text(key): clean(item, depth + 1) for key, item in list(value.items())[:_MAX_ITEMS]}
    return value


def text_of(value: Any) -> str:
    """The text in a field that may hold a text, a list of blocks with texts, or anything."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(text for item in value if (text := text_of(item)))
    if isinstance(value, dict):
        return text_of(value.get("text", ""))
    return ""


def label(value: Any) -> str:
    """A short text such as an id or a name, of the agent's making; an empty one for anything else."""
    return value[:128] if isinstance(value, str) else ""


def text(value: Any) -> str:
    """`value` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; nothing if it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _clean_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT} more characters)"
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
