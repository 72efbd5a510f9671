"""Names of templates as E2B's programs write them: `name`, `name:tag`, `team/name:tag`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hutch.errors import InvalidRequest

DEFAULT_TAG = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NOT_PLAIN = re.compile(r"[^a-z0-9]+")
_SLUG = 40


@dataclass(frozen=True)
class TemplateName:
    """What a program calls a template. The team in front of it is the organisation that asks, whatever it says."""

    name: str
    tag: str | None = None


def parse_name(text: str) -> TemplateName:
    """Raises `InvalidRequest`."""
    name, colon, tag = text.rpartition("/")[2].partition(":")
    name = name.lower()
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{text[:100]!r} is no name for a template: letters, digits, `.`, `_`, `-`, at most 100", field="name"
        )
    if colon and not _TAG.fullmatch(tag):
        raise InvalidRequest(f"{tag[:100]!r} is no tag: letters, digits, `.`, `_`, `-`, at most 100", field="tag")
    return TemplateName(name, tag or None)


def check_tags(tags: Iterable[str]) -> list[str]:
    """Each once, in their order. Raises `InvalidRequest`."""
    found = list(dict.fromkeys(tags))
    for tag in found:
        if not _TAG.fullmatch(tag):
            raise InvalidRequest(f"{tag[:100]!r} is no tag: letters, digits, `.`, `_`, `-`, at most 100", field="tags")
    return found


def made_name(name: str, digest: str) -> str:
    """What the node calls a template of this name and content."""
    slug = _NOT_PLAIN.sub("-", name).strip("-")[:_SLUG].strip("-") or "template"
    return f"{slug}-{digest[:12]}"
