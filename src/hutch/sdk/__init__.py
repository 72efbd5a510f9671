"""The client library: `Sandbox` and `Hutch`, and the same asynchronous as `AsyncSandbox` and `AsyncHutch`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hutch.sdk._async import AsyncHutch, AsyncOutputs, AsyncProcess, AsyncPty, AsyncSandbox, AsyncTask
    from hutch.sdk._sync import Hutch, Outputs, Process, Pty, Sandbox, Task
    from hutch.sdk.frames import Output
    from hutch.sdk.inputs import LocalInput, parse_input

_HOMES = {
    "hutch.sdk._async": ("AsyncHutch", "AsyncOutputs", "AsyncProcess", "AsyncPty", "AsyncSandbox", "AsyncTask"),
    "hutch.sdk._sync": ("Hutch", "Outputs", "Process", "Pty", "Sandbox", "Task"),
    "hutch.sdk.frames": ("Output",),
    "hutch.sdk.inputs": ("LocalInput", "parse_input"),
}

__all__ = [
    "AsyncHutch",
    "AsyncOutputs",
    "AsyncProcess",
    "AsyncPty",
    "AsyncSandbox",
    "AsyncTask",
    "Hutch",
    "LocalInput",
    "Output",
    "Outputs",
    "Process",
    "Pty",
    "Sandbox",
    "Task",
    "parse_input",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: who needs the blocking client has no use for the other one, and
    `hutch up` for neither."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'hutch.sdk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
