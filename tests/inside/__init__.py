"""Programs that tests run inside a sandbox. They stand on their own: only the standard library is there."""

from __future__ import annotations

from pathlib import Path


def program(name: str) -> bytes:
    """The source of one of them."""
    return Path(__file__).with_name(f"{name}.py").read_bytes()
