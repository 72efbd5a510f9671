"""What a kernel says, as E2B's clients read it."""

from __future__ import annotations

import json
import time
from typing import Any

from hutch_code.kernels import Event

_NAMES = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def output(stream: str, text: str, date: str | None = None) -> Event:
    """Something printed."""
    return {"type": stream, "text": text, "timestamp": date or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def error(name: str, value: str, traceback: str = "") -> Event:
    """The code's own error, or what became of it."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def result(bundle: dict[str, Any], main: bool) -> Event:
    """A value or something displayed, in all forms that there are of it."""
    found: Event = {"type": "result"}
    extra = {}
    for mime, value in bundle.items():
        if mime in _NAMES:
            found[_NAMES[mime]] = value
        else:
            extra[mime] = value
    text = found.get("text")
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] == "'":
        found["text"] = text[1:-1]
    if extra:
        found["extra"] = extra
    return found | {"is_main_result": main}


def read(line: bytes) -> Event:
    """The event that a kernel wrote as a line of JSON."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return error("KernelError", "the kernel said what cannot be read")
    return found


def from_message(kind: str | None, date: str | None, content: dict[str, Any]) -> Event | None:
    """The event that a message of Jupyter's is; None when it is none."""
    if kind == "stream" and content.get("name") in ("stdout", "stderr"):
        return output(content["name"], str(content.get("text", "")), date)
    if kind in ("display_data", "execute_result") and isinstance(content.get("data"), dict):
        return result(content["data"], main=kind == "execute_result")
    if kind == "error":
        lines = content.get("traceback")
        traceback = "\n".join(map(str, lines)) if isinstance(lines, list) else ""
        return error(str(content.get("ename", "")), str(content.get("evalue", "")), traceback)
    if kind == "execute_input":
        return {"type": "number_of_executions", "execution_count": content.get("execution_count")}
    return None
