"""What a process has loaded at its start costs its garbage collector no time; what it throws away later is found."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

_PROCESS = """
import asyncio
from tests.unit.test_collecting import check
asyncio.run(check())
"""


class _Knot:
    def __init__(self) -> None:
        self.itself = self


async def check() -> None:
    from hutch import collecting

    young = gc.get_threshold()[0]
    collecting.leave_out_what_is_loaded()
    frozen = gc.get_freeze_count()
    assert frozen > 10 * len(gc.get_objects())
    assert gc.get_threshold()[0] > young
    kept, thrown_away = _Knot(), _Knot()
    seen = [weakref.ref(kept), weakref.ref(thrown_away)]
    del thrown_away
    collecting._once_more()
    assert seen[0]() is kept and seen[1]() is None
    assert gc.get_freeze_count() > frozen
    later = _Knot()
    gone = weakref.ref(later)
    del later
    gc.collect()
    assert gone() is None


def test_what_is_loaded_is_left_out_and_garbage_is_found() -> None:
    subprocess.run([sys.executable, "-c", _PROCESS], check=True)
