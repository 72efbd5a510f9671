"""Commands and terminals."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable

import pytest
from e2b import CommandExitException, InvalidArgumentException, NotFoundException, PtySize, Sandbox, TimeoutException


def test_run(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo partly; exit 7")
    assert (caught.value.exit_code, caught.value.stdout) == (7, "partly\n")


def test_options(sandbox: Sandbox) -> None:
    assert sandbox.commands.run('echo "$A"; pwd', envs={"A": "1"}, cwd="/tmp").stdout == "1\n/tmp\n"
    with pytest.raises(InvalidArgumentException):
        sandbox.commands.run("true", cwd="/no/such/place")


def test_output_comes_as_it_is_printed(sandbox: Sandbox) -> None:
    seen: list[tuple[float, str]] = []
    sandbox.commands.run("echo a; sleep 0.7; echo b", on_stdout=lambda text: seen.append((time.monotonic(), text)))
    assert [text.strip() for _, text in seen] == ["a", "b"] and seen[1][0] - seen[0][0] > 0.3


def test_large_output(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("head -c 5000000 /dev/zero | tr '\\0' x")
    assert result.stdout == "x" * 5_000_000


def test_timeout_ends_the_command(sandbox: Sandbox, eventually: Callable[..., None]) -> None:
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 31.5", timeout=1)
    eventually(lambda: all("31.5" not in " ".join(one.args) for one in sandbox.commands.list()))


def test_background_list_connect_kill(sandbox: Sandbox) -> None:
    command = sandbox.commands.run("sleep 1; echo late; sleep 60", background=True)
    assert command.pid in [one.pid for one in sandbox.commands.list()]
    again = sandbox.commands.connect(command.pid)
    assert next(text for text, _, _ in again if text).strip() == "late"
    assert command.kill()
    with pytest.raises(CommandExitException):
        command.wait()
    assert not sandbox.commands.kill(command.pid)
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(4_000_000)


def test_stdin(sandbox: Sandbox, eventually: Callable[..., None]) -> None:
    command = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(command.pid, "one\n")
    sandbox.commands.close_stdin(command.pid)
    assert command.wait().stdout == "one\n"


def test_disconnecting_leaves_it_running(sandbox: Sandbox, eventually: Callable[..., None]) -> None:
    command = sandbox.commands.run("sleep 1; touch /tmp/survived", background=True)
    command.disconnect()
    eventually(lambda: sandbox.files.exists("/tmp/survived"))


def test_many_at_once(sandbox: Sandbox) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda number: sandbox.commands.run(f"echo {number}").stdout, range(32)))
    assert told == [f"{number}\n" for number in range(32)]


def test_terminal(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=30)
    sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=100))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $((6*7)); exit\n")
    seen = b""
    for _, _, data in terminal:
        seen += data or b""
    assert b"40 100" in seen and b"42" in seen
    second = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=30)
    assert sandbox.pty.kill(second.pid)


def test_stream_input(sandbox: Sandbox) -> None:
    if not hasattr(sandbox.commands, "stream_input"):
        pytest.skip("a call of newer clients")
    command = sandbox.commands.run("head -n 3", background=True, stdin=True)
    sandbox.commands.stream_input(command.pid, iter(["one\n", b"two\n", "three\n"]))
    assert command.wait().stdout == "one\ntwo\nthree\n"
