"""How much memory and disk is in use, as the sandbox sees it."""

from __future__ import annotations

import os


def memory(limit: int | None = None) -> dict[str, int]:
    """Bytes used and in all."""
    fields: dict[str, int] = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            fields[name] = int(rest.split()[0]) * 1024
    total = fields.get("MemTotal", 0)
    free = fields.get("MemAvailable", fields.get("MemFree", 0))
    cache = fields.get("Cached", 0)
    return {"used": max(total - free, 0), "total": min(total, limit) if limit else total, "cache": cache}


def disk(limit: int | None = None, path: str = "/") -> dict[str, int]:
    """Bytes used and in all, of the file system that `path` is on."""
    stat = os.statvfs(path)
    total = stat.f_blocks * stat.f_frsize
    used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    return {"used": used, "total": min(total, limit) if limit else total}
