"""What the sandbox is now: this process is older than the sandbox that it is in (see docs/guide/templates.md)."""

from __future__ import annotations

import json
from pathlib import Path

_GENERATION = Path("/run/hutch/generation")
_SNAPSHOT = Path("/run/hutch/snapshot")
_ENVIRONMENT = Path("/run/hutch/environment")
_MAX_BYTES = 4 << 20


class Sandbox:
    """The sandbox's generation and environment, read again when the generation has changed."""

    def __init__(self) -> None:
        self._generation = ""
        self._environment: dict[str, str] = {}

    def freezes(self) -> str:
        """Changes when the sandbox was frozen: whether it has been thawed since, or a snapshot of it was taken."""
        return _read(_GENERATION) + _read(_SNAPSHOT)

    def now(self) -> tuple[str, dict[str, str]]:
        """Both, as they are now."""
        generation = _read(_GENERATION).strip()
        if generation != self._generation:
            self._environment = _parse(_read(_ENVIRONMENT))
            self._generation = generation
        return self._generation, self._environment


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return ""


def _parse(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
