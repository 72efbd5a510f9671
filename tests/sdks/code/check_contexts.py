"""Contexts, their environment, and what ends or outlives an execution."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from e2b import NotFoundException, SandboxException, TimeoutException
from e2b_code_interpreter import AsyncSandbox, Context, Sandbox


def test_a_context_keeps_its_own_state_and_directory(sandbox: Sandbox) -> None:
    sandbox.run_code("mine = 1")
    context = sandbox.create_code_context(cwd="/tmp", language="python")
    assert (context.language, context.cwd) == ("python", "/tmp")
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
    missing = sandbox.run_code("mine", context=context).error
    assert missing is not None and missing.name == "NameError"
    assert context.id in [each.id for each in sandbox.list_code_contexts()]
    sandbox.run_code("kept = 1", context=context)
    sandbox.restart_code_context(context)
    fresh = sandbox.run_code("kept", context=context)
    assert fresh.error is not None and fresh.execution_count == 1
    sandbox.remove_code_context(context.id)
    assert context.id not in [each.id for each in sandbox.list_code_contexts()]
    assert sandbox.run_code("mine; import os; os.getcwd()").text == "/home/user"


def test_what_is_not_there(sandbox: Sandbox) -> None:
    nowhere = Context(context_id="nowhere", language="python", cwd="/")
    for call in (
        lambda: sandbox.run_code("1", context=nowhere),
        lambda: sandbox.restart_code_context(nowhere),
        lambda: sandbox.remove_code_context("nowhere"),
    ):
        with pytest.raises(NotFoundException):
            call()
    with pytest.raises(SandboxException, match="no directory"):
        sandbox.create_code_context(cwd="/nowhere")
    with pytest.raises(SandboxException, match="no kernel for 'cobol'"):
        sandbox.run_code("1", language="cobol")


def test_environment(sandbox: Sandbox) -> None:
    told = "import os; print(*(os.environ.get(n) for n in ('GREETING', 'E2B_SANDBOX_ID', 'MORE')))"
    assert sandbox.run_code(told).logs.stdout == [f"hello {sandbox.sandbox_id} None\n"]
    both = sandbox.run_code(told, envs={"MORE": "1", "GREETING": "bye"})
    assert both.logs.stdout == [f"bye {sandbox.sandbox_id} 1\n"]
    assert sandbox.run_code(told).logs.stdout == [f"hello {sandbox.sandbox_id} None\n"]


def test_a_client_that_gives_up_interrupts_its_code(sandbox: Sandbox) -> None:
    began = time.monotonic()
    for wait in ("time.sleep(100)", "await asyncio.sleep(100)"):
        with pytest.raises(TimeoutException):
            sandbox.run_code(f"import asyncio, time\nstate = {wait!r}\n{wait}", timeout=2)
        assert sandbox.run_code("state").text == wait
    assert time.monotonic() - began < 40


def test_signals_of_the_code_cut_nothing(sandbox: Sandbox) -> None:
    """A handler that raises wherever it likes, also in the middle of what is written, ends no kernel and no answer."""
    context = sandbox.create_code_context()
    handler = "def handler(*_):\n    if time.monotonic() < end: raise TimeoutError"
    sandbox.run_code(f"import signal, time\n{handler}\nsignal.signal(signal.SIGALRM, handler)", context=context)
    rung = "end = time.monotonic() + 1; signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)"
    shown = "    try: display({'text/plain': 'x' * 1_000_000}, raw=True)\n    except TimeoutError: pass"
    sandbox.run_code(f"{rung}\nwhile time.monotonic() < end:\n{shown}", context=context)
    time.sleep(1)  # where the handler has ended it, the old timer rings until `end` is over
    late = "signal.setitimer(signal.ITIMER_REAL, 1.5); end = time.monotonic() + 60; kept = 'kept'"
    assert sandbox.run_code(late, context=context).error is None
    time.sleep(2)
    assert sandbox.run_code("kept", context=context).text == "kept"
    left = sandbox.run_code("exit()", context=context)
    assert left.error is None
    sandbox.remove_code_context(context)


def test_executions_of_a_context_queue_up(sandbox: Sandbox) -> None:
    sandbox.run_code("order = []")
    runs = [
        threading.Thread(target=sandbox.run_code, args=(f"import time; time.sleep(0.2); order.append({i})",))
        for i in range(4)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sandbox.run_code("sorted(order)").text == "[0, 1, 2, 3]"


def test_a_kernel_that_dies_is_told_and_a_new_one_takes_its_place(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context()
    died = sandbox.run_code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", context=context)
    assert died.error is not None and died.error.name == "KernelDied" and "SIGKILL" in died.error.value
    assert sandbox.run_code("2", context=context).text == "2"
    running: list[object] = []
    late = threading.Thread(
        target=lambda: running.append(sandbox.run_code("import time; time.sleep(60)", context=context))
    )
    late.start()
    time.sleep(1)
    sandbox.restart_code_context(context)
    late.join(30)
    assert [run.error.name for run in running] == ["ContextRestarting"]  # type: ignore[attr-defined]
    sandbox.remove_code_context(context)


def test_a_pause_in_the_middle_of_an_execution(sandbox: Sandbox) -> None:
    sandbox.run_code("steps = 0")
    code = "import time\nfor steps in range(1, 31): time.sleep(0.1)"

    def run() -> None:
        with pytest.raises(Exception):  # noqa: B017 - the connection is cut, whatever the client calls that
            sandbox.run_code(code)

    running = threading.Thread(target=run)
    running.start()
    time.sleep(1)
    sandbox.pause()
    running.join(30)
    sandbox.connect()
    assert sandbox.run_code("steps").text == "30"


def test_a_fork_goes_on_with_what_there_was(sandbox: Sandbox) -> None:
    sandbox.run_code("import random; shared = [1, 2]; random.seed(1)")
    (fork,) = sandbox.fork(count=1)
    try:
        assert fork.run_code("shared.append(3); shared").text == "[1, 2, 3]"
        assert sandbox.run_code("shared").text == "[1, 2]"
    finally:
        fork.kill()


def test_two_sandboxes_draw_different_numbers(sandbox: Sandbox) -> None:
    draw = "import random, uuid, numpy; print(random.random(), numpy.random.random(), uuid.uuid4())"
    with Sandbox.create() as other, Sandbox.create() as another:
        first, second = (each.run_code(draw).logs.stdout[0].split() for each in (other, another))
    assert not set(first) & set(second)


def test_async() -> None:
    async def run() -> None:
        async with await AsyncSandbox.create() as made:
            lines: list[str] = []
            execution = await made.run_code("print('a')\n1 + 1", on_stdout=lambda message: lines.append(message.line))
            assert execution.text == "2" and lines == ["a\n"]
            context = await made.create_code_context()
            assert (await made.run_code("3", context=context)).text == "3"
            await made.restart_code_context(context)
            assert len(await made.list_code_contexts()) >= 2
            await made.remove_code_context(context)

    asyncio.run(run())
