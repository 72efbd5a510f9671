"""The processor, as far as a snapshot depends on it: programs look once at what it can do, and remember."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hutch.model import Model


class Cpu(Model):
    """A processor's kind and abilities."""

    vendor: str
    model: str
    """For people; not compared."""
    flags: tuple[str, ...]
    """Names of its features, sorted."""

    def lacks(self, other: Cpu) -> str:
        """What keeps a program that has run on `other` from going on here, in words; empty when nothing does."""
        if self.vendor != other.vendor:
            return f"made by {other.vendor}, this one by {self.vendor}"
        missing = sorted(set(other.flags) - set(self.flags))
        return f"this one lacks {', '.join(missing[:8])}{' and more' if len(missing) > 8 else ''}" if missing else ""


@cache
def host_cpu() -> Cpu:
    """This host's."""
    return parse(Path("/proc/cpuinfo").read_text())


def parse(cpuinfo: str) -> Cpu:
    """The first processor that /proc/cpuinfo shows."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    said = {name.strip(): value.strip() for name, _, value in lines}
    flags = said.get("flags", said.get("Features", "")).split()
    return Cpu(
        vendor=said.get("vendor_id", said.get("CPU implementer", "unknown")),
        model=said.get("model name", "unknown"),
        flags=tuple(sorted(flags)),
    )
