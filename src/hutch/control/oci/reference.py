"""What an image is called: `[registry/]name[:tag][@digest]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hutch.errors import InvalidRequest

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Reference:
    """Where to ask, and for what."""

    registry: str
    name: str
    wanted: str
    """A tag, or a digest."""


def parse_reference(text: str) -> Reference:
    """Raises `InvalidRequest`."""
    rest, _, digest = text.partition("@")
    head, slash, tail = rest.partition("/")
    registry = "docker.io"
    if slash and ("." in head or ":" in head or head == "localhost"):
        registry, rest = head, tail
    name, colon, tag = rest.rpartition(":") if ":" in rest.rpartition("/")[2] else (rest, "", "")
    if registry in _DOCKER:
        registry, name = "registry-1.docker.io", name if "/" in name else f"library/{name}"
    wanted = digest or (tag if colon else "latest")
    fits = DIGEST if digest else _TAG
    if not (_NAME.fullmatch(name) and _HOST.fullmatch(registry) and fits.fullmatch(wanted) and len(name) <= 255):
        raise InvalidRequest(f"{text[:200]!r} is no name of an image", field="fromImage")
    return Reference(registry, name, wanted)
