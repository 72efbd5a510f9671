"""Percent-decoding and query strings (`urllib.parse` costs milliseconds to import on the boot path)."""

from __future__ import annotations

_HEX = frozenset(b"0123456789abcdefABCDEF")


def unquote(text: str) -> str:
    """`text` percent-decoded. File names are bytes: what is not UTF-8 becomes surrogates, as in `os.fsdecode`."""
    if "%" not in text and text.isascii():
        return text
    parts = text.encode("latin-1", "replace").split(b"%")
    out = bytearray(parts[0])
    for part in parts[1:]:
        if len(part) >= 2 and part[0] in _HEX and part[1] in _HEX:
            out.append(int(part[:2], 16))
            out += part[2:]
        else:
            out += b"%" + part
    return out.decode("utf-8", "surrogateescape")


def parse_query(text: str) -> dict[str, str]:
    """The query's parameters; of a repeated one the last counts."""
    query: dict[str, str] = {}
    for pair in text.split("&") if text else ():
        name, _, value = pair.replace("+", " ").partition("=")
        if name:
            query[unquote(name)] = unquote(value)
    return query


def split_target(target: str) -> tuple[str, dict[str, str]]:
    """Path (decoded) and query of a request target in origin or absolute form."""
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2]
    path, _, query = target.partition("#")[0].partition("?")
    return unquote(path), parse_query(query)
