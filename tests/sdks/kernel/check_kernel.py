"""The Python kernel by itself, as its server drives it: what code's signal handlers, and exceptions that its threads
raise in the main one, do to executions that come after."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hutch_code.forking import Zygotes
from hutch_code.kernels import Event, KernelStopped, Surroundings
from hutch_code.python import PythonKernel

ROUNDS = 150
STRANGE = "class Strange(BaseException): pass\n"
ALARM = """
import signal, time
def handler(*_): raise Strange('rung')
signal.signal(signal.SIGALRM, handler)
"""
THREAD = """
import ctypes, threading, time
main = threading.main_thread().ident
def throw():
    while stopped is False:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(Strange))
        time.sleep(0.0067)
stopped = False
threading.Thread(target=throw, daemon=True).start()
"""


@asynccontextmanager
async def kernel() -> AsyncIterator[PythonKernel]:
    made = PythonKernel(Zygotes())
    await made.start("/tmp")
    try:
        yield made
    finally:
        await made.kill("over")


async def run(made: PythonKernel, code: str, **env: str) -> list[Event]:
    around = Surroundings("1", {"OWN": "own"}, env)
    async with asyncio.timeout(60):
        return [event async for event in made.execute(textwrap.dedent(code), around)]


def error(events: list[Event]) -> str | None:
    """The name of the last one."""
    return next((event["name"] for event in reversed(events) if event["type"] == "error"), None)


def text(events: list[Event]) -> str | None:
    return next((event["text"] for event in events if event.get("is_main_result")), None)


async def bombarded(made: PythonKernel, code: str) -> None:
    """Run it often. What has no error has run, once, and is answered; what has one may have run, but not twice."""
    silent = 0
    for number in range(ROUNDS):
        events = await run(made, code.replace("NUMBER", str(number)), ROUND=str(number))
        if error(events) is None:
            silent += 1
            assert text(events) == str(number), (number, events)
    print(f"{silent} of {ROUNDS} without an error")
    assert silent > 0


def test_what_a_handler_raises_loses_no_execution() -> None:
    async def check() -> None:
        async with kernel() as made:
            await run(made, STRANGE + ALARM + "ran = []; signal.setitimer(signal.ITIMER_REAL, 0.0071, 0.0071)")
            await bombarded(made, "ran.append(NUMBER); NUMBER")
            while error(await run(made, "signal.setitimer(signal.ITIMER_REAL, 0)")) is not None:
                pass
            assert text(await run(made, "len(ran) == len(set(ran)), ran == sorted(ran)")) == "(True, True)"
            await whole(made)

    asyncio.run(check())


def test_what_threads_raise_in_the_main_one_loses_no_execution() -> None:
    async def check() -> None:
        async with kernel() as made:
            await run(made, STRANGE + "ran = []\n" + THREAD)
            await bombarded(made, "ran.append(NUMBER); NUMBER")
            while error(await run(made, "stopped = True")) is not None:
                pass
            await run(made, "time.sleep(0.1)")
            assert text(await run(made, "len(ran) == len(set(ran)), ran == sorted(ran)")) == "(True, True)"
            await whole(made)

    asyncio.run(check())


async def whole(made: PythonKernel) -> None:
    """Nothing of the exceptions is left."""
    assert text(await run(made, "import os; os.environ.get('ROUND'), os.environ['OWN']")) == "(None, 'own')"
    assert text(await run(made, "os.environ['ROUND']", ROUND="5")) == "5"
    assert text(await run(made, "import asyncio; await asyncio.sleep(0.01, 7)")) == "7"
    assert [event["text"] for event in await run(made, "print('a')") if event["type"] == "stdout"] == ["a\n"]


def test_between_executions_handlers_and_tasks_run() -> None:
    async def check() -> None:
        async with kernel() as made:
            code = """
            import asyncio, signal, decimal
            rung = []; ticks = []
            def handler(*_):
                rung.append(1)
                raise RuntimeError('nobody hears')
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            async def tick():
                while True:
                    ticks.append(1)
                    await asyncio.sleep(0.05)
            ticking = asyncio.create_task(tick())
            decimal.getcontext().prec = 5
            """
            assert error(await run(made, code)) is None
            await asyncio.sleep(0.5)
            assert text(await run(made, "len(rung), len(ticks) > 5")) == "(1, True)"
            assert text(await run(made, "decimal.Decimal(1) / 3")) == "Decimal('0.33333')"

    asyncio.run(check())


def test_what_broke_the_machinery_ends_the_kernel() -> None:
    """Instead of having it run in circles."""

    async def check() -> None:
        async with kernel() as made:
            with contextlib.suppress(KernelStopped):
                await run(made, "import os; os.closerange(3, 200)")
            assert made._process is not None
            assert await asyncio.wait_for(made._process.ended, 20) == "the kernel ended with exit code 0"

    asyncio.run(check())


def test_forks_of_the_code_and_its_ends() -> None:
    async def check() -> None:
        async with kernel() as made:
            assert text(await run(made, "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\npid > 0")) == "True"
            assert error(await run(made, "raise SystemExit(3)")) == "SystemExit"
            assert error(await run(made, "def broken(:")) == "SyntaxError"
            assert error(await run(made, "exit()")) is None
            assert made._process is not None
            assert await asyncio.wait_for(made._process.ended, 20) == "the kernel ended with exit code 0"

    asyncio.run(check())
