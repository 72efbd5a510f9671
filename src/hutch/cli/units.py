"""Durations and sizes as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import typer

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_FACTOR = {"": 1 / 1024**2, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}


def parse_duration(text: str) -> float:
    """Seconds: `90`, `45s`, `10m`, `1h30m`, `2d`."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"{text!r} is no duration; write 45s, 10m, 1h30m or 2d")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_mib(text: str) -> int:
    """MiB: `512M`, `2G`; a bare number means MiB."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(f"{text!r} is no size; write 512M or 2G")
    number, unit = float(match[1]), match[2].lower()
    return max(1, round(number if not unit and text.strip().isdigit() else number * _FACTOR[unit]))


def human_bytes(count: float) -> str:
    """`158 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def age(since: datetime | None) -> str:
    """How long ago."""
    return "" if since is None else human_seconds(max(0.0, (datetime.now(UTC) - since).total_seconds()))
