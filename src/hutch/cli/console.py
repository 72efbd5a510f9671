"""The two consoles, and what may go to them. Answers go to standard output, everything about them to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

WIDE = 10_000
"""Tables and lines are not cut to a terminal's width where there is no terminal."""

out = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(
    width=None if sys.stderr.isatty() else WIDE, stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False
)

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def clean(text: object) -> str:
    """Text from a sandbox or a server, without what could move the cursor, colour or hide things in a terminal."""
    return _INVISIBLE.sub("", _CONTROL.sub("", str(text).replace("\r\n", "\n")))


def one_line(text: object, most: int = 200) -> str:
    """The same on one line, shortened."""
    line = " ".join(clean(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def plain(value: Any) -> Any:
    """JSON values of a model, or of anything that holds models."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output, at once."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """A word to the person, on standard error."""
    err.print(Text(clean(text), style=style))


def complain(text: str, hint: str | None = None) -> None:
    """What went wrong, and the way out."""
    line = Text.assemble(("error: ", "bold red"), clean(text))
    if hint:
        line.append(f"\nhint:  {clean(hint)}", style="dim")
    err.print(line)
