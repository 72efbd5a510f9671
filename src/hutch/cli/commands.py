"""Where each command is. Only the one that is asked for is imported: of what all need together it is half the time."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

_RUN, _STATES, _HOST, _MORE = "Run agents and commands", "Save and go back", "This machine", "More"


@dataclass(frozen=True)
class Command:
    """A command, or a group of them."""

    panel: str
    """Under which heading of the help it stands."""
    module: str
    """Below `hutch.cli`."""
    attribute: str
    """There: a function, or the `Typer` of a group."""
    cls: tuple[str, str] | None = None
    """Module and name of its class, if it has one of its own."""
    settings: dict[str, Any] | None = None

    def add(self, app: typer.Typer, name: str) -> None:
        """Import it and make it a command of this name."""
        found = _find(self.module, self.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=self.panel)
        else:
            cls = _find(*self.cls) if self.cls else None
            app.command(name, cls=cls, context_settings=self.settings, rich_help_panel=self.panel)(found)


def _find(module: str, name: str) -> Any:
    return getattr(import_module(f"hutch.cli.{module}"), name)


COMMANDS = {
    "run": Command(_RUN, "running", "run", cls=("running", "RunCommand")),
    "ps": Command(_RUN, "sandboxes", "ps"),
    "exec": Command(_RUN, "executing", "exec_", settings={"allow_interspersed_args": False}),
    "shell": Command(_RUN, "shell", "shell"),
    "logs": Command(_RUN, "logs", "logs"),
    "cp": Command(_RUN, "copying", "cp"),
    "kill": Command(_RUN, "sandboxes", "kill"),
    "port": Command(_RUN, "ports", "port"),
    "egress": Command(_RUN, "egress", "egress"),
    "policy": Command(_RUN, "policies", "app"),
    "pause": Command(_STATES, "states", "pause"),
    "resume": Command(_STATES, "states", "resume"),
    "snapshot": Command(_STATES, "snapshots", "snapshots"),
    "rollback": Command(_STATES, "states", "rollback"),
    "fork": Command(_STATES, "states", "fork"),
    "timeline": Command(_STATES, "timeline", "timeline"),
    "diff": Command(_STATES, "diffing", "diff"),
    "up": Command(_HOST, "upping", "up", cls=("naming", "UpCommand")),
    "down": Command(_HOST, "upping", "down"),
    "doctor": Command(_HOST, "doctor", "doctor"),
    "orphan": Command(_HOST, "orphan", "app"),
    "systemd": Command(_HOST, "systemd", "systemd"),
    "demo": Command(_HOST, "demo", "demo"),
    "task": Command(_MORE, "tasks", "app"),
    "template": Command(_MORE, "templates", "app"),
    "secret": Command(_MORE, "secrets", "app"),
    "key": Command(_MORE, "keys", "app"),
    "budget": Command(_MORE, "budget", "app"),
    "volume": Command(_MORE, "volumes", "app"),
    "audit": Command(_MORE, "audit", "app"),
    "identity": Command(_MORE, "identity", "app"),
    "tls": Command(_HOST, "tls", "app"),
    "e2b": Command(_MORE, "e2b", "e2b"),
    "version": Command(_MORE, "version", "version"),
}
"""In the order of the help."""


def asked_for(arguments: list[str]) -> str | None:
    """The command of a command line; None where all are wanted (the help, a completion, a misspelt one)."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--url", "--api-key"):
            next(rest, None)
        elif not argument.startswith(("--url=", "--api-key=")):
            return argument if argument in COMMANDS else None
    return None
