"""The application: its commands, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from hutch.cli import (
    copying,
    demo,
    diffing,
    doctor,
    e2b,
    egress,
    executing,
    identity,
    keys,
    logs,
    naming,
    running,
    sandboxes,
    shell,
    snapshots,
    states,
    tasks,
    templates,
    timeline,
    tls,
    upping,
    version,
)
from hutch.cli.common import Connection
from hutch.cli.console import complain, print_json
from hutch.errors import HutchError

app = typer.Typer(
    name="hutch",
    help="Every AI agent gets its own computer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUN, STATES, HOST, MORE = "Run agents and commands", "Save and go back", "This machine", "More"

app.command("run", cls=running.RunCommand, rich_help_panel=RUN)(running.run)
app.command("ps", rich_help_panel=RUN)(sandboxes.ps)
app.command("exec", context_settings={"allow_interspersed_args": False}, rich_help_panel=RUN)(executing.exec_)
app.command("shell", rich_help_panel=RUN)(shell.shell)
app.command("logs", rich_help_panel=RUN)(logs.logs)
app.command("cp", rich_help_panel=RUN)(copying.cp)
app.command("kill", rich_help_panel=RUN)(sandboxes.kill)
app.command("egress", rich_help_panel=RUN)(egress.egress)
app.add_typer(egress.policy, name="policy", rich_help_panel=RUN)
app.command("pause", rich_help_panel=STATES)(states.pause)
app.command("resume", rich_help_panel=STATES)(states.resume)
app.add_typer(snapshots.snapshots, name="snapshot", rich_help_panel=STATES)
app.command("rollback", rich_help_panel=STATES)(states.rollback)
app.command("fork", rich_help_panel=STATES)(states.fork)
app.command("timeline", rich_help_panel=STATES)(timeline.timeline)
app.command("diff", rich_help_panel=STATES)(diffing.diff)
app.command("up", cls=naming.UpCommand, rich_help_panel=HOST)(upping.up)
app.command("down", rich_help_panel=HOST)(upping.down)
app.command("doctor", rich_help_panel=HOST)(doctor.doctor)
app.command("demo", rich_help_panel=HOST)(demo.demo)
app.add_typer(tasks.app, name="task", rich_help_panel=MORE)
app.add_typer(templates.app, name="template", rich_help_panel=MORE)
app.add_typer(keys.app, name="key", rich_help_panel=MORE)
app.add_typer(identity.app, name="identity", rich_help_panel=MORE)
app.add_typer(tls.app, name="tls", rich_help_panel=HOST)
app.command("e2b", rich_help_panel=MORE)(e2b.e2b)
app.command("version", rich_help_panel=MORE)(version.version)


@app.callback()
def options(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option(envvar="HUTCH_URL", help="The server, if not this machine's.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="HUTCH_API_KEY", help="The key, if not the saved one.", show_envvar=True)
    ] = None,
) -> None:
    """Every AI agent gets its own computer."""
    ctx.obj = Connection(url, api_key)


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 good, 1 an error, 2 wrong usage, 130 interrupted; `run` and `exec` have
    those of what they run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except HutchError as error:
        _report(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit itself complains
        sys.exit(141)
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(1)


def _report(error: HutchError) -> None:
    options, _, _ = " ".join(sys.argv[1:]).partition(" -- ")
    if "--json" in options.split():
        print_json(error.to_problem())
    complain(error.detail, error.hint)


if __name__ == "__main__":
    main()
