"""The application: its commands, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from hutch.cli.commands import COMMANDS, asked_for
from hutch.cli.common import Connection
from hutch.cli.console import complain, print_json
from hutch.errors import HutchError


def application(only: str | None = None) -> typer.Typer:
    """The command line; with `only`, as far as that command needs it."""
    app = typer.Typer(
        name="hutch",
        help="Every AI agent gets its own computer.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, command in COMMANDS.items():
        if only in (None, name):
            command.add(app, name)
    app.callback()(options)
    return app


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
        application(asked_for(sys.argv[1:]))()
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
