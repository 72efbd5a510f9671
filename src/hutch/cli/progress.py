"""Progress bars: on a terminal only, on standard error, gone when they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from hutch.cli.console import err, note
from hutch.cli.units import human_bytes
from hutch.sdk import LocalInput
from hutch.sdk.tar import size_of

LARGE = 512 << 20


@contextmanager
def transfer(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar for bytes; call what is given with each number of bytes that went by."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, advance=count)


def watched(chunks: Iterator[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    """The same chunks, each counted as it goes by."""
    for chunk in chunks:
        advance(len(chunk))
        yield chunk


def warn_if_large(local: LocalInput) -> int:
    """The size of a local input; a warning when it is unlikely to be meant."""
    size = size_of(local.path, local.exclude)
    if size > LARGE:
        hint = "" if local.exclude else "; leave out what is not needed with --exclude (node_modules, .venv, target)"
        note(f"{local.path} has {human_bytes(size)}{hint}", "yellow")
    return size
