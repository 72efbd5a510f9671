"""Text of a guest's making, as it may stand in a log."""

from __future__ import annotations

from typing import Any


def printable(text: str, most: int = 512) -> str:
    """Without what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])


def fit(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry's fields, without those that say nothing."""
    return {
        key: printable(value, 300) if isinstance(value, str) else value
        for key, value in entry.items()
        if value is not None
    }
