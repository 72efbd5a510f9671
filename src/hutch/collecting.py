"""Python's garbage collector in a process that serves. A full collection looks at everything that was ever loaded, a
hundred thousand objects, and nobody is served meanwhile: 40 to 100 ms, again and again, of which nothing is ever freed.
"""

from __future__ import annotations

import asyncio
import gc

_YOUNG = 5_000
"""New objects that are there at once until they are looked through: more than a call makes on its way."""
_WARM_SECONDS = 60.0
"""After which what is loaded late has been loaded, too, and what is kept for ever is there."""


def leave_out_what_is_loaded() -> None:
    """For all collections from here on. Call it on the event loop when the process has started."""
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.freeze()
    asyncio.get_running_loop().call_later(_WARM_SECONDS, _once_more)


def _once_more() -> None:
    gc.collect()  # what is garbage now would be kept for ever
    gc.freeze()
