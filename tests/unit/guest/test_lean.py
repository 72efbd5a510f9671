"""asyncio imported lean behaves as asyncio."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hutch_guest

PATH = f"import sys; sys.path.append({str(Path(hutch_guest.__file__).parent.parent)!r})\n"
"""The guest is found also by an interpreter without site-packages, which bring imports of their own."""

SCRIPT = """
import sys
from hutch_guest.lean import import_all
import_all(system=False)
import asyncio
early = {"inspect", "logging", "subprocess", "traceback", "linecache", "ssl"} & {n for n, m in sys.modules.items() if m}
assert not early, early
assert type(sys.modules["typing"]).__name__ == "_Deferred"

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
assert asyncio.streams.StreamReader and asyncio.subprocess.PIPE == -1 and asyncio.base_events.sslproto.SSLProtocol
from typing import NamedTuple, Optional, get_type_hints
class Named(NamedTuple):
    value: Optional[int]
assert Named(1).value == 1 and get_type_hints(Named) == {"value": Optional[int]}
print("done")
"""


def test_what_is_deferred_comes_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
    assert "ValueError: told by the real logger" in done.stderr


@pytest.mark.parametrize("system", [False, True])
def test_the_guest_imports_nothing_it_does_not_need_to_start(system: bool) -> None:
    script = (
        f"from hutch_guest.lean import import_all; import_all({system}); import sys\n"
        "slow = ['ssl', 'hashlib', 'random', 'logging', 'inspect', 'subprocess', 'tarfile', 'argparse', 'urllib',\n"
        "        'typing', 'traceback', 'tokenize', 'ast', 'asyncio.sslproto', 'asyncio.streams']\n"
        "print([name for name in slow if type(sys.modules.get(name)) is type(sys)])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", PATH + script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
