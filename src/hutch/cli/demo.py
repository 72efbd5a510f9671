"""`hutch demo`: what `make demo` runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hutch.cli.common import Json


def demo(
    agent: Annotated[
        str | None,
        typer.Option("--agent", "-a", help="claude-code or codex; by default by the key that is set."),
    ] = None,
    scripted: Annotated[bool, typer.Option("--scripted", help="The scripted model, even when a key is set.")] = False,
    json: Json = False,
) -> None:
    """Show what Hutch does: one agent, one fresh sandbox, nothing left behind.

    Brings up a Hutch of its own in temporary directories. With ANTHROPIC_API_KEY or OPENAI_API_KEY set the agent talks
    to the real provider, without to a small scripted model.
    """
    options = [f"--agent={agent}"] if agent else []
    options += ["--scripted"] * scripted + ["--json"] * json
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "hutch.demo", *options])  # noqa: S606
