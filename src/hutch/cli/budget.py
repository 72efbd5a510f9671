"""`hutch budget`: what the organisation spends on model providers, and may."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.common import Json, connection
from hutch.cli.console import note, out, print_json
from hutch.cli.sandboxes import table
from hutch.errors import InvalidRequest
from hutch.model import OrgBudget, OrgSpending

app = typer.Typer(no_args_is_help=True, help="What all tasks together may spend on model providers.")


@app.command("show")
def show(ctx: typer.Context, json: Json = False) -> None:
    """Show the limits, and what was spent today and this month (UTC)."""
    with connection(ctx).client() as client:
        _print(client.llm.spending(), json)


@app.command("set")
def set_(
    ctx: typer.Context,
    day_usd: Annotated[float | None, typer.Option(help="Dollars a day.", metavar="DOLLARS", min=0)] = None,
    day_tokens: Annotated[int | None, typer.Option(help="Tokens a day.", metavar="TOKENS", min=0)] = None,
    month_usd: Annotated[float | None, typer.Option(help="Dollars a month.", metavar="DOLLARS", min=0)] = None,
    month_tokens: Annotated[int | None, typer.Option(help="Tokens a month.", metavar="TOKENS", min=0)] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Begin with no limit; else the others stay.")] = False,
    json: Json = False,
) -> None:
    """Set limits, at once, for the tasks that run as well."""
    given = {"day_usd": day_usd, "day_tokens": day_tokens, "month_usd": month_usd, "month_tokens": month_tokens}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted and not clear:
        raise InvalidRequest("which limit?", hint="For example `hutch budget set --day-usd 50`, or `--clear`.")
    with connection(ctx).client() as client:
        before = OrgBudget() if clear else client.llm.spending().budget
        _print(client.llm.set_budget(before.model_copy(update=wanted)), json)


def _print(found: OrgSpending, json: bool) -> None:
    if json:
        return print_json(found)
    budget = found.budget
    rows = table("", "DOLLARS", "OF", "TOKENS", "OF", "ENDS")
    for name, used, usd, tokens, ends in (
        ("today", found.day, budget.day_usd, budget.day_tokens, found.day_ends),
        ("this month", found.month, budget.month_usd, budget.month_tokens, found.month_ends),
    ):
        limits = ("-" if usd is None else f"{usd:,.2f}", "-" if tokens is None else f"{tokens:,}")
        rows.add_row(name, f"{used.usd:,.2f}", limits[0], f"{used.tokens:,}", limits[1], f"{ends:%Y-%m-%d %H:%M} UTC")
    out.print(rows)
    if found.month.unpriced_tokens:
        note(f"{found.month.unpriced_tokens:,} tokens of models without a price are in no dollar figure")
