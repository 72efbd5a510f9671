"""`hutch template`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from hutch.cli.common import Json, connection
from hutch.cli.console import clean, err, one_line, out, print_json
from hutch.cli.sandboxes import table
from hutch.cli.units import human_bytes
from hutch.errors import UnknownTemplate
from hutch.model import TemplateInfo

app = typer.Typer(no_args_is_help=True, help="Templates: what a sandbox starts from.")


@app.command("ls")
def list_templates(ctx: typer.Context, json: Json = False) -> None:
    """List the templates."""
    with connection(ctx).client() as client:
        found = client.templates.list()
    if json:
        return print_json(found)
    rows = table("TEMPLATE", "IMAGE", "START", "CPUS", "MEMORY", "DISK", "AGENTS", "DESCRIPTION")
    for each in found:
        image = human_bytes(each.image_bytes or 0) if each.image else Text("not built", style="yellow")
        memory, disk = (human_bytes(mib << 20) for mib in (each.resources.memory_mib, each.resources.disk_mib))
        agents = ", ".join(each.agents)
        rows.add_row(
            each.name,
            image,
            _start(each),
            f"{each.resources.cpus:g}",
            memory,
            disk,
            agents,
            one_line(each.description, 60),
        )
    out.print(rows)


def _start(template: TemplateInfo) -> str:
    """How the next sandbox of it will come to run."""
    if template.warm:
        return f"{template.warm} warm"
    return "thaw" if template.snapshot else "boot" if template.image else ""


@app.command("show")
def show(ctx: typer.Context, name: str, json: Json = False) -> None:
    """Show one template."""
    with connection(ctx).client() as client:
        found = next((each for each in client.templates.list() if each.name == name), None)
    if found is None:
        raise UnknownTemplate(f"there is no template {name!r}")
    if json:
        return print_json(found)
    built = f"{found.image} ({human_bytes(found.image_bytes or 0)})" if found.image else "not built"
    rows = {
        "template": found.name,
        "about": found.description,
        "agents": ", ".join(found.agents),
        "image": built,
        "start": _start(found),
        "limits": f"{found.resources.cpus:g} CPUs, {found.resources.memory_mib} MiB memory, "
        f"{found.resources.disk_mib} MiB disk, {found.resources.pids} processes",
    }
    for label, value in rows.items():
        if value:
            out.print(Text.assemble((f"{label:<10}", "dim"), clean(value)))


@app.command("build")
def build(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="TEMPLATE...", help="Their names, or `all`.")],
    force: Annotated[bool, typer.Option("--force", help="Even when its image is there.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print what the steps print.")] = False,
    json: Json = False,
) -> None:
    """Build templates. Quick when nothing has changed."""
    with connection(ctx).client() as client:
        if names == ["all"]:
            names = [each.name for each in client.templates.list()]
        for name in names:
            show = _as_json if json else _Bar(name, verbose)
            with show if isinstance(show, _Bar) else _Nothing():
                for message in client.templates.messages(name, force=force):
                    show(message)


def _as_json(message: dict[str, Any]) -> None:
    print_json(message)


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


class _Bar:
    """Shows a build: a bar on a terminal, a line a step elsewhere."""

    def __init__(self, name: str, verbose: bool) -> None:
        self._name, self._verbose = name, verbose
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._bar.add_task(f"building {name}", total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "progress":
                self._step(message)
            case "log" if self._verbose:
                err.print(Text(f"  {clean(message.get('line', ''))}", style="dim"))
            case "done":
                self._done(TemplateInfo.model_validate(message["template"], extra="ignore"), message.get("note"))

    def _step(self, message: dict[str, Any]) -> None:
        text = f"building {self._name}: {one_line(message.get('text', ''), 60)}"
        self._bar.update(self._task, description=text, completed=message.get("step", 0), total=message.get("of"))
        if not err.is_terminal:
            err.print(Text(f"[{message.get('step')}/{message.get('of')}] {text}"))

    def _done(self, template: TemplateInfo, note: str | None) -> None:
        self._bar.stop()
        if note:
            err.print(Text(clean(note), style="yellow"))
        out.print(Text.assemble(("✓ ", "green"), f"{template.name}  {human_bytes(template.image_bytes or 0)}"))
