"""Names of images that programs begin with, and which template of Hutch stands for them.

Only where it is what was asked for: Debian 12 with its Python and a current Node.js. All others are pulled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STANDARD = "standard"


@dataclass(frozen=True)
class Known:
    """A template that stands for an image, and what is to be told of the difference."""

    template: str
    note: str


_WHAT = "Debian 12 with Python 3.11, Node.js 24, git and compilers"
_OURS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"e2bdev/base(:latest)?"), f"e2bdev/base is Hutch's `{STANDARD}` here: {_WHAT}"),
    (
        re.compile(r"debian(:(latest|stable|stable-slim|12|12-slim|bookworm|bookworm-slim))?"),
        f"this image is Hutch's `{STANDARD}` here: {_WHAT}",
    ),
    (
        re.compile(r"python(:(latest|slim|3|3-slim|3(\.11)?(-slim)?(-bookworm)?))?"),
        f"this image is Hutch's `{STANDARD}` here: {_WHAT}",
    ),
    (
        re.compile(r"node(:(latest|slim|current|current-slim|(lts|24)(-slim|-bookworm|-bookworm-slim)?))?"),
        f"this image is Hutch's `{STANDARD}` here: {_WHAT}",
    ),
)
_PREFIXES = ("docker.io/library/", "docker.io/", "library/")


def known_image(image: str) -> Known | None:
    """None for one that has to be pulled."""
    name = image
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for pattern, note in _OURS:
        if pattern.fullmatch(name):
            return Known(STANDARD, note)
    return None
