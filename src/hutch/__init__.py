"""Hutch: every AI agent gets its own computer.

from hutch import Sandbox

with Sandbox.create() as sandbox:
    print(sandbox.run("uname -a").stdout)
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hutch.errors import HutchError
    from hutch.model import (
        AllowAll,
        Budget,
        DenyAll,
        GitInput,
        Identity,
        NetworkLimits,
        NetworkRules,
        ResourcesOverride,
        UploadInput,
        UrlInput,
    )
    from hutch.sdk import AsyncHutch, AsyncSandbox, Hutch, LocalInput, Sandbox

__version__ = "0.1.0"

# Whoever imports httpx imports httpx's command line as well, and with it rich, pygments and a Markdown parser: half of
# its time. It does without where that module cannot be imported.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

_HOMES = {
    "hutch.errors": ("HutchError",),
    "hutch.model": (
        "AllowAll",
        "Budget",
        "DenyAll",
        "GitInput",
        "Identity",
        "NetworkLimits",
        "NetworkRules",
        "ResourcesOverride",
        "UploadInput",
        "UrlInput",
    ),
    "hutch.sdk": ("AsyncHutch", "AsyncSandbox", "Hutch", "LocalInput", "Sandbox"),
}

__all__ = [
    "AllowAll",
    "AsyncHutch",
    "AsyncSandbox",
    "Budget",
    "DenyAll",
    "GitInput",
    "Hutch",
    "HutchError",
    "Identity",
    "LocalInput",
    "NetworkLimits",
    "NetworkRules",
    "ResourcesOverride",
    "Sandbox",
    "UploadInput",
    "UrlInput",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the daemons are in this package too, and need none of them."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'hutch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
