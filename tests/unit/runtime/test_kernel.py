"""Calls to the kernel of a sandbox: what goes over the socket, what comes back, and what stays locked meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hutch.runtime.kernel import (
    PAGES,
    PAGES_META,
    STATE,
    ConnectionInTheWay,
    Connections,
    Kernel,
    KernelRefused,
    all_stopped,
)


class Sentry:
    """Takes calls as the kernel of a sandbox does: keeps the files of one until it has answered."""

    def __init__(self, path: Path) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answer: list[bytes] = [b'{"success":true,"err":"","result":{}}']
        self.go_on = threading.Event()
        self.go_on.set()
        self.has_call = threading.Event()
        self.done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                data, files, _, _ = socket.recv_fds(connection, 1 << 16, 8)
                self.calls.append(json.loads(data) | {"files": len(files)})
                self.has_call.set()
                self.go_on.wait(10)
                for piece in self.answer:
                    connection.sendall(piece)
                for file in files:
                    os.close(file)
            self.done.set()

    def close(self) -> None:
        self.go_on.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def sentry(tmp_path: Path) -> Iterator[Sentry]:
    serving = Sentry(tmp_path / "socket")
    yield serving
    serving.close()


@pytest.fixture
def kernel(sentry: Sentry, tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "socket")


def locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def test_what_is_held_stays_locked_until_the_call_is_over_though_the_caller_is_gone(
    sentry: Sentry, kernel: Kernel, tmp_path: Path
) -> None:
    hold = os.open(tmp_path / "note", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(hold, fcntl.LOCK_EX)
    sentry.go_on.clear()
    pausing = asyncio.create_task(kernel.pause(hold))
    await asyncio.to_thread(sentry.has_call.wait, 10)
    os.close(hold)
    assert locked(tmp_path / "note")
    sentry.go_on.set()
    await pausing
    await asyncio.to_thread(sentry.done.wait, 10)
    assert not locked(tmp_path / "note")


async def test_the_files_of_a_save_are_new_and_locked_until_it_is_over(
    sentry: Sentry, kernel: Kernel, tmp_path: Path
) -> None:
    sentry.go_on.clear()
    saving = asyncio.create_task(kernel.save(tmp_path, direct=False))
    await asyncio.to_thread(sentry.has_call.wait, 10)
    assert [locked(tmp_path / name) for name in (STATE, PAGES_META, PAGES)] == [True] * 3
    sentry.go_on.set()
    await saving
    await asyncio.to_thread(sentry.done.wait, 10)
    assert [locked(tmp_path / name) for name in (STATE, PAGES_META, PAGES)] == [False] * 3
    assert sentry.calls[0]["files"] == 3 and sentry.calls[0]["arg"]["Resume"] is True
    with pytest.raises(FileExistsError):
        await kernel.save(tmp_path, direct=False)


async def test_a_cut_is_a_save_that_fails_and_leaves_no_file(sentry: Sentry, kernel: Kernel, tmp_path: Path) -> None:
    sentry.answer = [b'{"success":false,"err":"no space left on device","result":null}']
    await kernel.cut_connections(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["socket"]
    sentry.answer = [b""]
    with pytest.raises(ConnectionError):
        await kernel.cut_connections(tmp_path)


async def test_what_the_kernel_refuses_is_an_error_in_its_words(sentry: Sentry, kernel: Kernel, tmp_path: Path) -> None:
    sentry.answer = [b'{"success":false,"err":"statefile error: no space left on device\\nstack","result":null}']
    with pytest.raises(KernelRefused, match=r"Checkpoint: statefile error: no space left on device$"):
        await kernel.save(tmp_path, direct=False)
    said = "save rejected: nil pointer\ngvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).beforeSave(0x0)"
    sentry.answer = [json.dumps({"success": False, "err": said, "result": None}).encode()]
    for name in (STATE, PAGES_META, PAGES):
        (tmp_path / name).unlink()
    with pytest.raises(ConnectionInTheWay):
        await kernel.save(tmp_path, direct=False)


METRICS = """{"success":true,"err":"","result":{"snapshot":{"data":[
    {"metric":{"name":"netstack_tcp_current_open"},"val":{"int":3}},
    {"metric":{"name":"netstack_tcp_passive_connection_openings"},"val":{"int":4}},
    {"metric":{"name":"netstack_tcp_current_established"},"val":{}}]}}}"""


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        ([METRICS[:200].encode(), METRICS[200:].encode()], Connections(established=0, open=3, opened=4)),
        ([b'{"success":true,"err":"","result":{"snapshot":{"data":[]}}}'], None),
        ([b'{"success":true,"err":"","result":[]}'], None),
        ([b"[7]}"], None),
        ([b""], None),
    ],
)
async def test_connections_are_counted_or_cannot_be_told(
    sentry: Sentry, kernel: Kernel, answer: list[bytes], connections: Connections | None
) -> None:
    sentry.answer = answer
    assert await kernel.connections() == connections


TASK = """goroutine {n} [{state}]:
{top}
gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).run(0xc00002d508, 0x1)
\tgvisor.dev/gvisor/pkg/sentry/kernel/task_run.go:97 +0x1cf"""
STOPPED = "gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).doStop(0xc00002d508)"
BLOCKED = "gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).block(0xc00002d508, 0xc00008a300, 0x0)"
OTHER = "goroutine 1 [chan receive]:\nmain.main()"


@pytest.mark.parametrize(
    ("tasks", "stopped"),
    [
        ([("sync.Cond.Wait", STOPPED), ("sync.Cond.Wait, 2 minutes", STOPPED)], True),
        ([("sync.Cond.Wait", STOPPED), ("select", BLOCKED)], False),  # one that was stopped by a signal
        ([("runnable", STOPPED)], False),  # let go on a moment ago
        ([], False),
    ],
)
def test_a_sandbox_stands_still_when_all_its_tasks_do(tasks: list[tuple[str, str]], stopped: bool) -> None:
    stacks = [TASK.format(n=n, state=state, top=top) for n, (state, top) in enumerate(tasks, 7)]
    assert all_stopped("\n\n".join([OTHER, *stacks])) is stopped
