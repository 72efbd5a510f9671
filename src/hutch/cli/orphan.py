"""`hutch orphan`: paused sandboxes that the node keeps and the server's database does not know."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.common import Json
from hutch.cli.console import note, out, print_json
from hutch.cli.host import HostProblem, need_root, orphans
from hutch.cli.naming import as_running
from hutch.cli.probing import FAILURES, delete
from hutch.cli.sandboxes import table
from hutch.cli.units import human_bytes
from hutch.settings import get_settings

app = typer.Typer(
    no_args_is_help=True,
    help="Paused sandboxes that this machine's node keeps and the server's database does not know: an older copy of it "
    "was put back.",
)


@app.command("ls")
def list_(json: Json = False) -> None:
    """List them. `hutch run --keep --from SNAPSHOT -- true` makes a new sandbox that goes on from one."""
    need_root("hutch orphan ls")
    found = orphans(as_running(get_settings()))
    if json:
        return print_json([each.model_dump(mode="json") for each in found])
    rows = table("SANDBOX", "SNAPSHOT", "ORGANISATION", "TEMPLATE", "SIZE", "KEPT UNTIL (UTC)")
    for each in found:
        until = f"{each.until:%Y-%m-%d %H:%M}"
        rows.add_row(each.id, each.snapshot, each.org or "", each.template, human_bytes(each.bytes), until)
    out.print(rows)
    note("the server says which they are; it looks when it starts and now and then")


@app.command("rm")
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="SANDBOX...", help="Their ids, whole.")], json: Json = False
) -> None:
    """Remove them for good, with what they stand on. Sandboxes that were made from them go on."""
    need_root("hutch orphan rm")
    settings = as_running(get_settings())
    for id in ids:
        if id not in {each.id for each in orphans(settings)}:
            raise HostProblem(
                f"{id} is no such sandbox", hint="`hutch orphan ls` lists them; `hutch kill` is for others."
            )
        try:
            status = delete(settings.node_socket, f"/orphans/{id}")
        except FAILURES as error:
            raise HostProblem(f"the node does not answer: {error}", hint="See its log, then try again.") from error
        if status >= 300:
            raise HostProblem(f"{id} was not removed: the node says {status}", hint="See the node's log.")
        if not json:
            out.print(id)
    if json:
        print_json(ids)
