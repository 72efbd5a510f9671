"""Prints, as JSON, the public calls of the installed clients: run it where they are."""

from __future__ import annotations

import importlib
import json

from e2b import CommandHandle, Git, Sandbox, Secret, Template, Volume, WatchHandle
from e2b.sandbox_sync.commands.command import Commands
from e2b.sandbox_sync.commands.pty import Pty
from e2b.sandbox_sync.filesystem.filesystem import Filesystem
from e2b_desktop.main import _VNCServer

CLASSES = {
    "Sandbox": Sandbox,
    "commands": Commands,
    "pty": Pty,
    "files": Filesystem,
    "git": Git,
    "CommandHandle": CommandHandle,
    "WatchHandle": WatchHandle,
    "Volume": Volume,
    "Secret": Secret,
    "Template": Template,
}


def public(kind: type) -> list[str]:
    """The names of its public functions."""
    return [each for each in dir(kind) if not each.startswith("_") and callable(getattr(kind, each))]


def calls() -> list[str]:
    """`Class.name` of every public function."""
    found = []
    for name, kind in CLASSES.items():
        found += [f"{name}.{each}" for each in public(kind)]
    for package in ("e2b_code_interpreter", "e2b_desktop"):
        found += [f"Sandbox.{each}" for each in public(importlib.import_module(package).Sandbox)]
    return found + [f"stream.{each}" for each in public(_VNCServer)]


print(json.dumps(calls()))
