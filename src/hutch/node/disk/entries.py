"""What a guest says of a path, checked: nothing of it is used that has not passed here."""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as NotBase64
from typing import Any

MOST_LINE = 1 << 20
MOST_PATH = 4096
_MOST_NAME = 255
_MOST_ATTRIBUTES = 256
_MOST_ATTRIBUTE = 64 << 10
_MOST_SIZE = 2**63 - 1
_MOST_ID = 2**32 - 1

Entry = dict[str, Any]

PLAIN = ("file", "directory", "symlink", "fifo", "char", "block", "socket")
_LINKS = ("hardlink", "gone", "hidden")


class Hostile(Exception):
    """The guest's answer is not what a guest of ours would give."""


def parse_line(line: bytes) -> Entry:
    """One line as an object. Raises `Hostile`."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Hostile("a line is not JSON") from error
    if not isinstance(found, dict):
        raise Hostile("a line is not an object")
    return found


def packed(raw: Entry) -> Entry:
    """An entry of a packed stream, with nothing in it that we do not know. Raises `Hostile`."""
    kind = raw.get("type")
    entry: Entry = {"path": path(raw.get("path")), "type": kind}
    if raw.get("was") is not None:
        entry["was"] = state(raw["was"])
    if kind in _LINKS:
        return entry | ({"target": path(raw.get("target"))} if kind == "hardlink" else {})
    if kind == "socket":
        raise Hostile("a socket is not packed")
    entry |= state(raw)
    if raw.get("opaque") is True:
        entry["opaque"] = True
    if "xattrs" in raw:
        entry["xattrs"] = _attributes(raw["xattrs"])
    return entry


def state(raw: object) -> Entry:
    """What a path is. Raises `Hostile`."""
    if not isinstance(raw, dict) or raw.get("type") not in PLAIN:
        raise Hostile("an entry has no known type")
    found: Entry = {
        "type": raw["type"],
        "mode": _number(raw, "mode", 0o7777),
        "uid": _number(raw, "uid", _MOST_ID),
        "gid": _number(raw, "gid", _MOST_ID),
        "mtime": _number(raw, "mtime", _MOST_SIZE, least=-_MOST_SIZE),
    }
    if raw["type"] == "file":
        found["size"] = _number(raw, "size", _MOST_SIZE)
        if "digest" in raw:
            found["digest"] = _text(raw["digest"], 64)
    elif raw["type"] == "symlink":
        found["target"] = _text(raw.get("target"), MOST_PATH)
    elif raw["type"] in ("char", "block"):
        device = raw.get("device")
        if not isinstance(device, list) or len(device) != 2 or not all(_is_number(n, 0, _MOST_ID) for n in device):
            raise Hostile("a device has no numbers")
        found["device"] = device
    return found


def path(value: object) -> str:
    """A path below the root, in plain parts. Raises `Hostile`."""
    text = _text(value, MOST_PATH)
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in text:
        raise Hostile("a path is not plain")
    if any(len(_bytes(part)) > _MOST_NAME for part in parts):
        raise Hostile("a name is too long")
    return text


def size_of_text(value: object) -> int:
    """Bytes of what has to be a text, not only a name: nothing but UTF-8. Raises `Hostile`."""
    if not isinstance(value, str):
        raise Hostile("a text is missing")
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise Hostile("a text is not UTF-8") from error


def shown(text: str) -> str:
    """A name for a person and for JSON: bytes that are no UTF-8 as `\\xff`."""
    return _bytes(text).decode("utf-8", "backslashreplace")


def _attributes(raw: object) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) > _MOST_ATTRIBUTES:
        raise Hostile("extended attributes are not what they should be")
    for name, value in raw.items():
        _text(name, _MOST_NAME)
        try:
            if len(b64decode(_text(value, 2 * _MOST_ATTRIBUTE), validate=True)) > _MOST_ATTRIBUTE:
                raise Hostile("an extended attribute is too long")
        except (NotBase64, ValueError) as error:
            raise Hostile("an extended attribute is not base64") from error
    return raw


def _number(raw: Entry, name: str, most: int, least: int = 0) -> int:
    value = raw.get(name)
    if not _is_number(value, least, most):
        raise Hostile(f"`{name}` is not a number in its range")
    assert isinstance(value, int)
    return value


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(_bytes(value)) > most:
        raise Hostile("a text is missing or too long")
    return value


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Hostile("a text is no name") from error
