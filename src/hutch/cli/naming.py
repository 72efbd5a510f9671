"""The options of `hutch up` for host names and TLS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperCommand

from hutch.cli.host import HostProblem, StateFile
from hutch.settings import Settings, get_settings

Domain = Annotated[
    str | None, typer.Option(help="All names below it lead to this machine (HUTCH_DOMAIN).", show_default=False)
]
Tls = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="CERTIFICATE KEY, or: self",
        help="Serve API and sandboxes by host name on port 443: with the certificate in these files (HUTCH_TLS_CERT, "
        "HUTCH_TLS_KEY), or with one of a local authority (HUTCH_TLS_SELF).",
        show_default=False,
    ),
]
_SELF = "self"
NAMES = {"domain", "tls_cert", "tls_key", "tls_self", "tls_host", "tls_port"}
"""The settings that these options are about."""


class UpCommand(TyperCommand):
    """`--tls` has two values, or the one word `self`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        told = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--tls=") else [arg])]
        for at in range(len(told) - 1, 0, -1):
            if told[at - 1 : at + 1] == ["--tls", _SELF]:
                told.insert(at, _SELF)
        return super().parse_args(ctx, told)


def set_names(domain: str | None, tls: tuple[Path, Path] | None) -> None:
    """The options become settings, also of the daemons. Raises `HostProblem` when settings are wrong."""
    if domain is not None:
        os.environ["HUTCH_DOMAIN"] = domain
    if tls == (Path(_SELF), Path(_SELF)):
        os.environ["HUTCH_TLS_SELF"] = "true"
    elif tls is not None:
        os.environ["HUTCH_TLS_CERT"], os.environ["HUTCH_TLS_KEY"] = (str(path.absolute()) for path in tls)
    try:
        get_settings()
    except ValidationError as error:
        wrong = ", ".join(f"HUTCH_{str(each['loc'][0]).upper()} ({each['msg']})" for each in error.errors())
        raise HostProblem(f"settings are wrong: {wrong}", hint="See docs/reference/settings.md.") from error


def as_running(settings: Settings) -> Settings:
    """With the names and the certificate of the `hutch up` that runs, when no setting here says any."""
    state = StateFile(settings)
    names = state.read().get("names") if state.held else None
    if settings.tls_wanted or not isinstance(names, dict):
        return settings
    return Settings.model_validate(settings.model_dump() | {name: names[name] for name in NAMES if name in names})
