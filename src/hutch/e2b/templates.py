"""Template names that E2B programs use, and what they are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hutch.control.service import Control
from hutch.errors import UnknownTemplate
from hutch.model import Snapshot, is_id

ALIASES = {"base": "standard", "code-interpreter-v1": "code-interpreter"}
"""Names of E2B's own templates."""
_TAGS = ("default", "latest")


@dataclass(frozen=True)
class Source:
    """What a sandbox is made from: one of the two."""

    template: str | None = None
    snapshot: str | None = None


async def find_source(control: Control, wanted: str, org: str) -> Source:
    """A snapshot by its id, a template by its name, first one that the organisation has built, or a snapshot by its
    name (the newest of that name). Raises `UnknownTemplate`."""
    if is_id(wanted, "snp"):
        return Source(snapshot=wanted)
    if (made := await control.builds.made(org, wanted)) is not None:
        return Source(template=made)
    name, _, tag = wanted.rpartition("/")[2].partition(":")
    if tag in ("", *_TAGS):
        found = ALIASES.get(name, name)
        if await control.has_template(found, org=org):
            return Source(template=found)
    if (snapshot := named(await control.all_snapshots(org=org), wanted)) is not None:
        return Source(snapshot=snapshot.id)
    raise UnknownTemplate(f"template '{wanted[:128]}' not found")


def named(snapshots: Sequence[Snapshot], name: str) -> Snapshot | None:
    """The newest of this name."""
    plain = without_tag(name)
    return next((each for each in reversed(snapshots) if each.name and without_tag(each.name) == plain), None)


def without_tag(name: str) -> str:
    """`name:default` is `name`; other tags count."""
    plain, _, tag = name.partition(":")
    return plain if tag in _TAGS else name


def names_of(template: str) -> list[str]:
    """All names that mean this one."""
    return [template, *(alias for alias, name in ALIASES.items() if name == template)]
