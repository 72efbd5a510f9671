"""Prints, as JSON, the public calls of the installed client: run it where the client is."""

from __future__ import annotations

import json

from e2b import CommandHandle, Git, Sandbox, Secret, Template, Volume, WatchHandle
from e2b.sandbox_sync.commands.command import Commands
from e2b.sandbox_sync.commands.pty import Pty
from e2b.sandbox_sync.filesystem.filesystem import Filesystem

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


def calls() -> list[str]:
    """`Class.name` of every public function."""
    found = []
    for name, kind in CLASSES.items():
        found += [f"{name}.{each}" for each in dir(kind) if not each.startswith("_") and callable(getattr(kind, each))]
    try:
        from e2b_code_interpreter import Sandbox as Interpreter
    except ImportError:
        return found
    return found + [
        f"Sandbox.{each}" for each in dir(Interpreter) if not each.startswith("_") and each not in dir(Sandbox)
    ]


print(json.dumps(calls()))
