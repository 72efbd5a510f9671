"""Finding files by patterns: `*`, `?`, `[...]` within a name, `**` across directories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from hutch_guest.errors import InvalidPath, LimitReached

MAX_FILES = 500_000
_WILD = re.compile(r"\*+|\?|\[!?[^\]/]+\]")


def find(base: str, patterns: list[str]) -> list[str]:
    """Files and links below `base` that a pattern means, relative to it, sorted.

    A pattern that names a directory means everything in it. Links are not followed; what cannot be read is left out.
    """
    matchers = [compile_pattern(relative_pattern(pattern, base)) for pattern in patterns]
    found = []
    for path in _walk(base):
        if any(matcher.match(path) for matcher in matchers):
            found.append(path)
            if len(found) > MAX_FILES:
                raise LimitReached(f"more than {MAX_FILES} files match")
    return sorted(found)


def relative_pattern(pattern: str, base: str) -> str:
    """The pattern relative to `base`; one that leads outside is refused."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.startswith("/"):
        above = [part for part in base.split("/") if part]
        if parts[: len(above)] != above:
            raise InvalidPath(f"'{pattern[:200]}' is outside {base}")
        parts = parts[len(above) :]
    if ".." in parts or "\0" in pattern:
        raise InvalidPath(f"'{pattern[:200]}' is outside {base}")
    return "/".join(parts)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """What matches a path's beginning, up to a `/` or its end."""
    parts = pattern.split("/") if pattern else ["**"]
    out = ["(?:[^/]+/)*" if part == "**" else _translate(part) + "/" for part in parts[:-1]]
    out.append("[^/]+" if parts[-1] == "**" else _translate(parts[-1]))
    return re.compile("".join(out) + r"(?:/|\Z)", re.DOTALL)


def _translate(part: str) -> str:
    out, position = [], 0
    for wild in _WILD.finditer(part):
        out.append(re.escape(part[position : wild.start()]))
        out.append(_WILDCARDS.get(wild[0][0]) or _character_class(wild[0]))
        position = wild.end()
    return "".join(out) + re.escape(part[position:])


_WILDCARDS = {"*": "[^/]*", "?": "[^/]"}


def _character_class(text: str) -> str:
    negated = text.startswith("[!")
    inner = text[2 if negated else 1 : -1].replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[")
    try:
        re.compile(f"[{inner}]")
    except re.error:
        return re.escape(text)
    return f"[^/{inner}]" if negated else f"[{inner}]"


def _walk(base: str) -> Iterator[str]:
    stack = [""]
    while stack:
        directory = stack.pop()
        try:
            with os.scandir(os.path.join(base, directory) if directory else base) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(path)
                    else:
                        yield path
        except OSError:
            continue
