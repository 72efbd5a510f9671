"""How much memory and disk is in use, as the sandbox sees it."""

from __future__ import annotations

import os


def memory(limit: int | None = None) -> dict[str, int]:
    """Bytes used and in all."""
    fields: dict[str, int] = {}
    with open("/proc/meminfo", encoding="utf-8") as file:
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


class CpuMeter:
    """How busy the processors were since it was last asked."""

    def __init__(self) -> None:
        self._last = self._read()

    def percent(self) -> float:
        """0 to 100."""
        busy, total = self._read()
        before_busy, before_total = self._last
        self._last = (busy, total)
        return round(100.0 * (busy - before_busy) / max(total - before_total, 1), 2)

    @staticmethod
    def _read() -> tuple[int, int]:
        try:
            with open("/proc/stat", encoding="utf-8") as file:
                fields = [int(number) for number in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return 0, 0
        return sum(fields) - sum(fields[3:5]), sum(fields)
