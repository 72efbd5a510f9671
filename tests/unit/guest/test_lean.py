"""asyncio imported lean behaves as asyncio."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from hutch_guest.lean import import_asyncio
import_asyncio()
import asyncio
early = {"inspect", "logging", "subprocess", "traceback", "linecache", "ssl"} & {n for n, m in sys.modules.items() if m}
assert not early, early

async def fail():
    raise ValueError("told by the real logger")

async def main():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    import gc
    gc.collect()
    assert asyncio.iscoroutinefunction(main)
    return await asyncio.get_running_loop().run_in_executor(None, lambda: 7)

assert asyncio.run(main(), debug=True) == 7
import inspect, logging, subprocess, traceback, linecache
assert inspect.isfunction(main) and subprocess.PIPE == -1 and logging.DEBUG == 10
assert type(inspect).__name__ == "module" and traceback.extract_stack()
print("done")
"""


def test_what_is_deferred_comes_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
    assert "ValueError: told by the real logger" in done.stderr


def test_the_guest_imports_nothing_it_does_not_need_to_start() -> None:
    script = (
        "from hutch_guest.lean import import_asyncio; import_asyncio()\n"
        "import hutch_guest.server, hutch_guest.api.processes, hutch_guest.api.system, hutch_guest.api.limit, sys\n"
        "slow = ['ssl', 'hashlib', 'random', 'logging', 'inspect', 'subprocess', 'tarfile', 'argparse', 'urllib']\n"
        "print([name for name in slow if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
