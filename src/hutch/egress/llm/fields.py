"""Fields of a request's JSON, found as leniently as any provider may find them: what is looked for to be refused must
not pass because it is spelled another way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hutch.egress.llm.refused import Refused


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The object that a request's body is. Raises `Refused`: what is no JSON object, or names a field twice, two
    readers could take for two things."""
    try:
        found = json.loads(body.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The request's body cannot be read as JSON: {str(error)[:200]}.") from error
    if not isinstance(found, dict):
        raise Refused(400, "The request's body is no JSON object.")
    return found


def values(holder: Any, name: str) -> Iterator[Any]:
    """All values of a field that a provider may take for `name`, which is given in lower case without underscores:
    Google reads `fileData` and `file_data`, servers written in Go read any case."""
    if isinstance(holder, dict):
        yield from (value for key, value in holder.items() if plain(key) == name)


def plain(name: str) -> str:
    """A field's name as it is compared."""
    return name.replace("_", "").lower()


def each(holder: Any, name: str) -> Iterator[dict[str, Any]]:
    """The objects in the lists of a field, or the object itself where one stands there."""
    for value in values(holder, name):
        group = value if isinstance(value, list) else [value]
        yield from (item for item in group if isinstance(item, dict))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same field twice")
    return found
