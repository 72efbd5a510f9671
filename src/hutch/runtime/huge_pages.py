"""Pages of 2 MiB for the memory of sandboxes, where their kernel asks for them.

gVisor keeps the memory of a sandbox in one file of the host's shared memory and asks (`MADV_HUGEPAGE`) for large pages
in it where a process has much. Linux heeds that only when its switch for shared memory says so, and as it comes the
switch is off: then each 4 KiB are a page fault of their own when they are written, saved, loaded and given back.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def allow(switch: Path = SWITCH) -> None:
    """Let those have them who ask (`advise`), and leave it so: nobody else is given any. Where the owner of the host
    has said anything but `never`, that stays; `deny` is a stronger no. Blocks for a moment."""
    with contextlib.suppress(OSError):
        if "[never]" in switch.read_text():
            switch.write_text("advise")
