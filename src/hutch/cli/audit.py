"""`hutch audit`: who did what, and whether the log of it is whole."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.text import Text

from hutch.cli.common import Json, connection, leave
from hutch.cli.console import complain, note, one_line, out, print_json
from hutch.model.audit import AuditHead, AuditRecord, Verifier

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what.")

_SHOWN_PROBLEMS = 20


@app.command("ls")
def list_records(
    ctx: typer.Context,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this: a sandbox's id, a task's.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this one did: a key's id, `hutch`.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this kind: call, sandbox, connection, ...")] = None,
    after: Annotated[int, typer.Option(help="Only records behind this number.")] = 0,
    json: Json = False,
) -> None:
    """List records, oldest first."""
    with connection(ctx).client() as client:
        while (page := client.audit.page(after, 1000, subject=subject, actor=actor, action=action)).records:
            for record in page.records:
                print_json(record) if json else out.print(_line(record))
            after = page.next


@app.command("export")
def export(ctx: typer.Context) -> None:
    """Print the whole log as JSON lines, with its signed heads and the key to verify them with."""
    with connection(ctx).client() as client:
        for line in client.audit.export():
            sys.stdout.write(jsonlib.dumps(line, separators=(",", ":")) + "\n")


@app.command("verify")
def verify(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="An export; without, the server's log as it is now.")] = None,
    key: Annotated[str | None, typer.Option(help="The key that heads must be signed with.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="An earlier export, of which this log must be the continuation.")
    ] = None,
    json: Json = False,
) -> None:
    """Find records that were removed, changed or moved. Exit code 1 when there are such."""
    verifier = Verifier(key, _last_head(against) if against is not None else None)
    try:
        if file is not None:
            problems = list(verifier.read(_lines(file)))
        else:
            with connection(ctx).client() as client:
                problems = list(verifier.read(client.audit.export()))
    except ValidationError as error:
        problems = [f"a line is none of an audit log: {str(error.errors(include_url=False)[0]['msg'])[:80]}"]
    if json:
        found = {"records": verifier.records, "heads": verifier.heads, "key": verifier.key, "problems": problems}
        print_json(found)
    else:
        for problem in problems[:_SHOWN_PROBLEMS]:
            complain(problem)
        if len(problems) > _SHOWN_PROBLEMS:
            complain(f"and {len(problems) - _SHOWN_PROBLEMS} more")
        note(f"{verifier.records} records, {verifier.heads} signed heads, key {verifier.key}")
    leave(1 if problems else 0)


def _line(record: AuditRecord) -> Text:
    rest = {name: value for name, value in record.detail.items() if name != "events" or not value}
    detail = " ".join([*(f"{name}={_short(value)}" for name, value in rest.items()), _events(record.detail)])
    text = f"{record.actor} {record.action} {record.subject} {record.outcome} {detail}"
    return Text.assemble((f"{record.seq} {record.time} ", "dim"), one_line(text, 400))


def _events(detail: dict[str, Any]) -> str:
    """What has happened in a sandbox in a moment: programs, connects, decisions."""
    events = detail.get("events")
    return "; ".join(map(_event, events)) if isinstance(events, list) else ""


def _event(event: Any) -> str:
    if not isinstance(event, dict):
        return _short(event)
    who = event.get("path") or event.get("process") or event.get("name")
    words = [" ".join(map(str, event["argv"]))] if event.get("argv") else []
    place = event.get("name") if "kind" in event else event.get("address")
    if place := place or event.get("address"):
        words.append(f"{place}:{event['port']}" if "port" in event else str(place))
    words += [f"({event[name]})" for name in ("secret", "rule", "reason") if event.get(name)]
    by = f"{who} ({event['pid']})" if "pid" in event else ""
    return " ".join([*([by] if by else []), *words, *([f"×{event['count']}"] if event.get("count", 1) != 1 else [])])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else jsonlib.dumps(value, separators=(",", ":"))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = jsonlib.loads(line)
            except ValueError:
                raise typer.BadParameter(f"line {number} of {file} is not JSON") from None
            yield found if isinstance(found, dict) else {}


def _last_head(file: Path) -> AuditHead | None:
    heads = [line for line in _lines(file) if line.get("type") == "head"]
    return AuditHead.model_validate(heads[-1]) if heads else None
