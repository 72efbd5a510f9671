"""Control on real sandboxes: the lifecycle, tasks to their end whatever happens, and nothing left behind."""

from __future__ import annotations

import asyncio
import io
import random
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from tests.integration.control_host import (
    FaultyDatabase,
    assert_whole,
    controlled,
    die,
    finished,
    printed,
    run_task,
    seed,
    settings_of,
    until,
)
from tests.node_host import NodeHost

from hutch.control.service import Control
from hutch.control.types import Idempotency
from hutch.errors import (
    DiskFull,
    HutchError,
    IdempotencyConflict,
    InvalidRequest,
    NodeUnavailable,
    NotFound,
    SandboxNotFound,
    SandboxNotRunning,
    TaskNotFound,
    UnknownTemplate,
    UploadNotFound,
)
from hutch.model import CreateSandbox, ExecRequest, Sandbox, SandboxState, TaskState

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@pytest.fixture
async def control(shared_node: NodeHost) -> AsyncIterator[Control]:
    async with controlled(shared_node) as made:
        yield made


def on_node(node: NodeHost) -> set[str]:
    """What lives there."""
    return {box["id"] for box in node.call("GET", "/sandboxes").json()["sandboxes"] if box["state"] != "dead"}


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for position in range(0, len(data), 1000):
        yield data[position : position + 1000]


# ---- plain sandboxes ----


async def test_a_plain_sandbox_from_create_to_delete(control: Control, shared_node: NodeHost) -> None:
    made = await control.create(CreateSandbox(labels={"of": "me"}, env={"NAME": "värde"}))
    assert made.state is SandboxState.RUNNING
    ran = await control.execs.run(made.id, ExecRequest(command='echo "$NAME"; exit 7'))
    assert (ran.stdout, ran.exit_code) == ("värde\n", 7)
    assert [box.id for box in (await control.list(labels={"of": "me"})).items] == [made.id]
    await asyncio.gather(control.delete(made.id), control.delete(made.id))
    await control.delete(made.id)
    assert (await control.get(made.id)).state is SandboxState.STOPPED
    assert made.id not in on_node(shared_node)
    assert (await control.list(labels={"of": "me"})).items == []
    with pytest.raises(SandboxNotRunning, match="deleted"):
        await control.execs.run(made.id, ExecRequest(command="true"))


async def test_another_org_sees_nothing(control: Control) -> None:
    made = await control.create(CreateSandbox())
    for call in (control.get(made.id, org="org_b"), control.delete(made.id, org="org_b"),
                 control.execs.list(made.id, org="org_b"), control.files.stat(made.id, "/", org="org_b")):  # fmt: skip
        with pytest.raises(SandboxNotFound):
            await call
    assert (await control.list(org="org_b")).items == []
    await control.delete(made.id)


async def test_a_refused_create_leaves_nothing(control: Control, shared_node: NodeHost) -> None:
    before = on_node(shared_node), len((await control.list(include_ended=True, limit=1000)).items)
    with pytest.raises(UnknownTemplate):
        await control.create(CreateSandbox(template="nope"))
    with pytest.raises(UploadNotFound):
        await run_task(control, "true", inputs=[{"type": "upload", "upload": "upl_x"}])
    assert (on_node(shared_node), len((await control.list(include_ended=True, limit=1000)).items)) == before


async def test_a_delete_wins_over_a_boot(control: Control, shared_node: NodeHost) -> None:
    creating = asyncio.create_task(control.create(CreateSandbox(labels={"race": "yes"})))
    found = await until(lambda: listed(control, "race"))
    await control.delete(found[0].id)
    with pytest.raises(SandboxNotRunning):
        await creating
    assert (await control.get(found[0].id)).state is SandboxState.STOPPED
    assert found[0].id not in on_node(shared_node)


async def listed(control: Control, label: str) -> list[Sandbox]:
    return (await control.list(labels={label: "yes"})).items


async def test_the_same_idempotency_key_creates_once(control: Control) -> None:
    key = Idempotency("key_1", f"k{time.time_ns()}")
    request = CreateSandbox(labels={"once": str(time.time_ns())})
    answers = await asyncio.gather(*(control.create(request, idempotency=key) for _ in range(4)))
    answers.append(await control.create(request, idempotency=key))
    assert len({answer.id for answer in answers}) == 1
    assert answers[0].state is SandboxState.RUNNING
    assert len((await control.list(labels=request.labels)).items) == 1
    with pytest.raises(IdempotencyConflict):
        await control.create(CreateSandbox(), idempotency=key)
    other = await control.create(CreateSandbox(), idempotency=Idempotency("key_2", key.key))
    assert other.id != answers[0].id
    await asyncio.gather(control.delete(answers[0].id), control.delete(other.id))


async def test_a_lifetime_ends(control: Control, shared_node: NodeHost) -> None:
    made = await control.create(CreateSandbox(lifetime=3))

    async def ended() -> bool:
        return (await control.get(made.id)).state is SandboxState.STOPPED

    await until(ended)
    found = await control.get(made.id)
    assert found.reason == "its lifetime is over"
    assert made.id not in on_node(shared_node)


# ---- exec and files ----


async def test_a_stream_of_output_can_be_read_again_from_any_frame(control: Control) -> None:
    box = await control.create(CreateSandbox())
    stream = await control.execs.stream(box.id, ExecRequest(command="for i in 1 2 3; do echo $i; sleep 0.1; done"))
    frames = [frame async for frame in stream if frame.type != "keepalive"]
    assert [frame.type for frame in frames] == ["start", "stdout", "stdout", "stdout", "exit"]
    assert frames[0].exec is not None
    again = await control.execs.output(box.id, frames[0].exec.id, start=frames[2].offset)
    assert [frame.data async for frame in again] == ["3\n", None]
    await control.delete(box.id)


async def test_input_signals_and_background(control: Control) -> None:
    box = await control.create(CreateSandbox())
    state = await control.execs.start(box.id, ExecRequest(command="cat", open_stdin=True))
    await control.execs.stdin(box.id, state.id, chunks(b"x" * 5000))
    await control.execs.stdin(box.id, state.id, b"end", close=True)
    stream = await control.execs.output(box.id, state.id)
    text = "".join([frame.data or "" async for frame in stream if frame.type == "stdout"])
    assert text == "x" * 5000 + "end"
    sleeper = await control.execs.start(box.id, ExecRequest(command="sleep 100 & sleep 100"))
    await control.execs.signal(box.id, sleeper.id, "kill")

    async def ended() -> bool:
        return not (await control.execs.get(box.id, sleeper.id)).running

    await until(ended)
    assert {state.id, sleeper.id} <= {known.id for known in await control.execs.list(box.id)}
    await control.delete(box.id)


async def test_files_stream_both_ways(control: Control) -> None:
    box = await control.create(CreateSandbox())
    data = random.Random(1).randbytes(3_000_000)
    info = await control.files.write(box.id, "deep/er/file", chunks(data), mode=0o600)
    assert (info.size, info.mode, info.path) == (len(data), 0o600, "/home/user/deep/er/file")
    whole = await control.files.read(box.id, "deep/er/file")
    assert (b"".join([c async for c in whole.chunks]), whole.size) == (data, len(data))
    part = await control.files.read(box.id, info.path, start=10, end=20)
    assert (b"".join([c async for c in part.chunks]), part.size, part.total) == (data[10:20], 10, len(data))
    assert [e.name for e in await control.files.list(box.id, "deep", depth=2)] == ["er", "file"]
    moved = await control.files.move(box.id, "deep/er/file", "other")
    assert (await control.files.stat(box.id, moved.path)).size == len(data)
    assert (await control.files.mkdir(box.id, "d")).type == "directory"
    assert (await control.files.mkdir(box.id, "d")).type == "directory"
    await control.files.remove(box.id, "other")
    for call in (control.files.remove(box.id, "other"), control.files.stat(box.id, "other"),
                 control.files.read(box.id, "other")):  # fmt: skip
        with pytest.raises(NotFound):
            await call
    for bad in (control.files.read(box.id, "d"), control.files.read(box.id, ""), control.files.list(box.id, "a\0")):
        with pytest.raises(InvalidRequest):
            await bad
    await control.delete(box.id)


async def test_directories_go_in_and_out_as_tar(control: Control) -> None:
    box = await control.create(CreateSandbox())
    await control.files.write_tar(box.id, "into", chunks(tar_of({"a": b"1", "sub/b": b"2"})))
    out = await control.files.read_tar(box.id, "into")
    assert untar(b"".join([c async for c in out.chunks])) == {"a": b"1", "sub/b": b"2"}
    await control.delete(box.id)


async def test_readers_who_vanish_leave_no_connection(control: Control, shared_node: NodeHost) -> None:
    box = await control.create(CreateSandbox())
    for _ in range(10):
        stream = await control.execs.stream(box.id, ExecRequest(command="seq 1 100000; sleep 100"))
        await anext(stream)
        await stream.aclose()
        await (await control.files.read(box.id, "/etc/passwd")).chunks.aclose()
    pool = control._fleet.nodes()[0]._guests._pool  # type: ignore[attr-defined]
    assert pool.active == 0
    await control.delete(box.id)


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def untar(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


# ---- tasks ----


async def test_a_task_from_inputs_to_outputs(control: Control, shared_node: NodeHost) -> None:
    upload = await control.upload(chunks(tar_of({"in/a.txt": b"hello\n"})))
    task, events = await run_task(
        control,
        "cat in/a.txt; mkdir -p out; tr a-z A-Z < in/a.txt > out/b.txt; echo oops >&2",
        inputs=[{"type": "upload", "upload": upload.id}],
        outputs=["out/**"],
    )
    assert_whole(events)
    assert (task.state, task.last_offset) == (TaskState.SUCCEEDED, len(events))
    assert (printed(events), printed(events, "stderr")) == (["hello"], ["oops"])
    assert [(file.path, file.size) for file in task.outputs] == [("out/b.txt", 6)]
    whole = await control.tasks.outputs(task.id)
    assert untar(b"".join([c async for c in whole.chunks])) == {"out/b.txt": b"HELLO\n"}
    one = await control.tasks.output_file(task.id, "out/b.txt")
    assert b"".join([c async for c in one.chunks]) == b"HELLO\n"
    with pytest.raises(NotFound):
        await control.tasks.output_file(task.id, "out/c.txt")
    assert [e.offset for e in await control.tasks.events(task.id, start=3, limit=2)] == [3, 4]
    late = [event async for event in await control.tasks.follow(task.id, start=len(events))]
    assert [event.type for event in late] == ["result"]
    assert [event async for event in await control.tasks.follow(task.id, start=len(events) + 5)] == []
    await until(lambda: gone(shared_node, task.sandbox_id))


async def gone(node: NodeHost, sandbox_id: str) -> bool:
    return sandbox_id not in on_node(node)


@pytest.mark.parametrize(
    ("command", "state", "exit_code", "error"),
    [
        ("exit 0", TaskState.SUCCEEDED, 0, None),
        ("exit 3", TaskState.FAILED, 3, "agent_crashed"),
        ("kill -SEGV $$", TaskState.FAILED, 139, "agent_crashed"),
    ],
)
async def test_how_a_task_ends(
    control: Control, command: str, state: TaskState, exit_code: int, error: str | None
) -> None:
    task, events = await run_task(control, command)
    assert_whole(events)
    assert task.result is not None
    assert (task.state, task.result.exit_code, task.result.error) == (state, exit_code, error)


async def test_a_cancelled_task_keeps_what_it_has_made(control: Control) -> None:
    made = await control.create(
        CreateSandbox(agent="command", task="echo part > out; echo ready; sleep 1000", outputs=["out"])
    )
    assert made.task is not None
    async for event in await control.tasks.follow(made.task.id):
        if event.type == "output":
            await control.tasks.cancel(made.task.id)
    task, events = await finished(control, made.task.id)
    assert_whole(events)
    assert (task.state, [file.path for file in task.outputs]) == (TaskState.CANCELLED, ["out"])
    assert (await control.tasks.cancel(task.id)).state is TaskState.CANCELLED


async def test_a_budget_of_time_warns_and_stops(control: Control) -> None:
    task, events = await run_task(control, "echo done > out; sleep 1000", budget={"run_time": 2}, outputs=["out"])
    assert_whole(events)
    levels = [event.data["level"] for event in events if event.type == "budget"]
    assert (levels, task.state) == (["warning", "exceeded"], TaskState.BUDGET_EXCEEDED)
    assert [file.path for file in task.outputs] == ["out"]
    assert 1.9 < task.usage.run_time < 20  # the stop takes as long as the machine is slow


async def test_a_lifetime_that_ends_stops_the_task_and_keeps_its_outputs(control: Control) -> None:
    task, events = await run_task(control, "echo done > out; sleep 1000", lifetime=8, outputs=["out"])
    assert_whole(events)
    assert (task.state, [file.path for file in task.outputs]) == (TaskState.TIMED_OUT, ["out"])


async def test_deleting_the_sandbox_cancels_its_task(control: Control) -> None:
    made = await control.create(CreateSandbox(agent="command", task="echo up; sleep 1000"))
    assert made.task is not None
    async for event in await control.tasks.follow(made.task.id):
        if event.type == "output":
            await control.delete(made.id)
    task, events = await finished(control, made.task.id)
    assert_whole(events)
    assert task.result is not None
    assert (task.state, task.result.error) == (TaskState.CANCELLED, "sandbox_deleted")


async def test_a_sandbox_that_dies_fails_its_task_with_the_reason(control: Control, shared_node: NodeHost) -> None:
    made = await control.create(CreateSandbox(agent="command", task="echo up; sleep 1000"))
    assert made.task is not None
    async for event in await control.tasks.follow(made.task.id):
        if event.type == "output":
            shared_node.call("DELETE", f"/sandboxes/{made.id}")
    task, events = await finished(control, made.task.id)
    assert_whole(events)
    assert task.result is not None
    assert (task.state, task.result.error) == (TaskState.FAILED, "sandbox_died")
    assert (await control.get(made.id)).state is SandboxState.FAILED


async def test_a_kept_sandbox_outlives_its_task(control: Control) -> None:
    task, _ = await run_task(control, "echo kept > file", keep=True)
    await asyncio.sleep(1)
    ran = await control.execs.run(task.sandbox_id, ExecRequest(command="cat file"))
    assert ran.stdout == "kept\n"
    await control.delete(task.sandbox_id)


async def test_a_prompt_of_five_megabytes(control: Control) -> None:
    task, events = await run_task(control, f"# {'x' * (5 << 20)}\necho survived")
    assert (printed(events), task.state) == (["survived"], TaskState.SUCCEEDED)
    assert len(task.prompt) <= 1024


async def test_a_great_deal_of_output_in_one_line_and_in_many(control: Control) -> None:
    command = "head -c 50000000 /dev/zero | tr '\\0' x; echo; seq 1 20000; echo end"
    task, events = await run_task(control, command)
    assert_whole(events)
    long, *rest = [event for event in events if event.type == "output"]
    assert long.data["truncated_bytes"] + len(long.data["text"]) == 50_000_000
    assert printed(rest) == [*map(str, range(1, 20001)), "end"]
    assert task.state is TaskState.SUCCEEDED


async def test_a_slow_reader_holds_up_nobody(control: Control) -> None:
    made = await control.create(CreateSandbox(agent="command", task="seq 1 5000; sleep 0.5; echo end"))
    assert made.task is not None
    slow = await control.tasks.follow(made.task.id)
    await anext(slow)
    task, events = await finished(control, made.task.id)
    assert task.state is TaskState.SUCCEEDED
    assert [event.offset async for event in slow] == [event.offset for event in events[1:]]


async def test_the_key_is_nowhere_and_is_gone_after_the_task(control: Control) -> None:
    key = "sk-ant-api03-canary-of-this-test"
    task, events = await run_task(control, "env; cat /proc/*/environ | tr '\\0' '\\n'; true", llm_key=key)
    assert key not in "".join(event.model_dump_json() for event in events) + task.model_dump_json()
    row = await control.store.tasks.get(task.id)
    assert row is not None
    assert row.sealed_llm_key is None
    assert row.placeholder is not None
    assert f"ANTHROPIC_API_KEY={row.placeholder}" in printed(events)
    files = [path for path in control._settings.server_dir.rglob("*") if path.is_file()]
    assert not any(key.encode() in path.read_bytes() for path in files)


async def test_an_unknown_task(control: Control) -> None:
    tasks = control.tasks
    for of_one in (tasks.get, tasks.cancel, tasks.events, tasks.follow, tasks.outputs):
        with pytest.raises(TaskNotFound):
            await of_one("tsk_x")


async def test_a_limit_that_is_hit_is_told_once_and_plainly(control: Control) -> None:
    task, events = await run_task(
        control, "echo begin; head -c 2000M /dev/zero | tail", resources={"memory_mib": 256, "disk_mib": 256}
    )
    assert_whole(events)
    limits = [event.data for event in events if event.type == "limit"]
    assert [(limit["limit"], limit["action"]) for limit in limits] == [("memory", "process_killed")]
    assert "memory limit 256 MiB reached" in limits[0]["message"]
    assert [breach.limit for breach in task.breaches] == ["memory"]
    assert task.result is not None
    assert (task.state, task.result.error) == (TaskState.FAILED, "limit_reached")


async def test_an_upload_that_does_not_fit_is_refused(control: Control) -> None:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield bytes(1 << 20)

    box = await control.create(CreateSandbox.model_validate({"resources": {"disk_mib": 128}}))
    for size in (300 << 20, None):
        with pytest.raises(DiskFull):
            await control.files.write(box.id, "big", much(), size=size)
    assert (await control.execs.run(box.id, ExecRequest(command="ls -A | grep -c big"))).stdout == "0\n"
    await control.files.write(box.id, "small", chunks(b"fits"))
    await control.delete(box.id)


# ---- inputs from the net ----


class _Site(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
        elif self.path == "/endless":
            BaseHTTPRequestHandler.end_headers(self)
            self.send_response(302)
            self.send_header("Location", "/endless")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server with a file, and a git repository of the dumb kind turned smart by git's own backend."""
    root = tmp_path_factory.mktemp("site")
    (root / "file").write_bytes(b"from the net\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: _Site(*a, directory=str(root)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_url_is_fetched_by_the_server(control: Control, site: str) -> None:
    task, events = await run_task(
        control, "cat data/x y", inputs=[{"type": "url", "url": f"{site}/away", "path": "data/x"},
                                         {"type": "url", "url": f"{site}/file", "path": "y"}],
    )  # fmt: skip
    assert task.state is TaskState.SUCCEEDED
    assert printed(events) == ["from the net"] * 2


@pytest.mark.parametrize("path", ["/none", "/endless"])
async def test_a_url_that_cannot_be_fetched(control: Control, site: str, path: str) -> None:
    task, events = await run_task(control, "true", inputs=[{"type": "url", "url": site + path, "path": "x"}])
    assert_whole(events)
    assert task.result is not None
    assert (task.state, task.result.error) == (TaskState.FAILED, "input_failed")


async def test_private_addresses_are_refused(shared_node: NodeHost, site: str) -> None:
    control = Control(settings_of(shared_node).model_copy(update={"allow_private_inputs": False}))
    await control.start()
    try:
        for wanted in ({"type": "url", "url": f"{site}/file", "path": "x"}, {"type": "git", "url": site}):
            task, _ = await run_task(control, "true", inputs=[wanted])
            assert task.result is not None
            assert task.result.error == "input_failed"
            assert "private address" in (task.result.detail or "")
    finally:
        await control.stop()


# ---- the server or the node dies ----


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_stream_is_whole_wherever_the_server_is_killed(shared_node: NodeHost) -> None:
    chance = random.Random(seed())
    command = "for i in $(seq 1 60); do echo line $i; sleep 0.03; done; echo made > out"
    async with controlled(shared_node) as control:
        request = CreateSandbox(agent="command", task=command, outputs=["out"])
        task = (await control.create(request)).task
        assert task is not None
        await die(control)
    for _ in range(40):
        control = Control(settings_of(shared_node))
        await control.start()
        fault = FaultyDatabase(control.store.database, chance.randint(1, 8), chance.random() < 0.5)
        ended = asyncio.create_task(finished(control, task.id))
        death = asyncio.create_task(fault.died.wait())
        await asyncio.wait({ended, death}, timeout=chance.uniform(0.05, 3), return_when=asyncio.FIRST_COMPLETED)
        over = ended.done()
        for waiter in (ended, death):
            waiter.cancel()
        await asyncio.gather(ended, death, return_exceptions=True)
        await die(control)
        if over:
            break
    async with controlled(shared_node) as control:
        found, events = await finished(control, task.id)
        assert_whole(events)
        assert printed(events) == [f"line {i}" for i in range(1, 61)]
        assert (found.state, [file.path for file in found.outputs]) == (TaskState.SUCCEEDED, ["out"])
        await until(lambda: gone(shared_node, found.sandbox_id))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("committed", [False, True], ids=["before-commit", "after-commit"])
async def test_a_server_killed_at_each_of_its_writes(shared_node: NodeHost, committed: bool) -> None:
    """The first write is the create's own; every later step of the task is one or more of its own."""
    for number in range(1, 30):
        label = f"w{time.time_ns()}"
        request = CreateSandbox.model_validate(
            {"agent": "command", "task": "echo one; sleep 0.2; echo two; echo made > out", "outputs": ["out"],
             "labels": {label: "yes"}}
        )  # fmt: skip
        control = Control(settings_of(shared_node))
        await control.start()
        fault = FaultyDatabase(control.store.database, number, committed)
        creating = asyncio.create_task(control.create(request))
        death = asyncio.create_task(fault.died.wait())
        await asyncio.wait({creating, death}, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(400):
            made = creating.result().task if creating.done() and creating.exception() is None else None
            over = made is not None and (await control.store.tasks.get(made.id)).step == "done"  # type: ignore[union-attr]
            if over or fault.died.is_set():
                break
            await asyncio.sleep(0.05)
        for waiter in (creating, death):
            waiter.cancel()
        await asyncio.gather(creating, death, return_exceptions=True)
        await die(control)
        async with controlled(shared_node) as control:
            for box in (await control.list(labels={label: "yes"}, include_ended=True)).items:
                assert box.task is not None
                task, events = await finished(control, box.task.id)
                assert_whole(events)
                assert (task.state, printed(events)) == (TaskState.SUCCEEDED, ["one", "two"])
                assert [file.path for file in task.outputs] == ["out"]
                await until(lambda id=box.id: gone(shared_node, id))
        if not fault.died.is_set():
            assert number > 8
            return
    raise AssertionError("the task has no end")


async def test_a_plain_sandbox_whose_create_was_killed_is_finished(shared_node: NodeHost) -> None:
    control = Control(settings_of(shared_node))
    await control.start()
    creating = asyncio.create_task(control.create(CreateSandbox(labels={"killed": "yes"})))
    (found,) = await until(lambda: listed(control, "killed"))
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    await die(control)
    async with controlled(shared_node) as control:

        async def runs() -> bool:
            return (await control.get(found.id)).state is SandboxState.RUNNING

        await until(runs)
        assert (await control.execs.run(found.id, ExecRequest(command="echo hi"))).stdout == "hi\n"
        await control.delete(found.id)


async def test_what_nobody_owns_is_ended(shared_node: NodeHost) -> None:
    orphan = shared_node.boot()["id"]
    async with controlled(shared_node):
        await until(lambda: gone(shared_node, orphan))


async def test_a_second_server_on_the_same_database_is_refused(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hutch.control.exclusive._PATIENCE", 0.5)
    other = Control(control._settings)
    with pytest.raises(HutchError, match="another server"):
        await other.start()
    await other.stop()


async def test_a_task_outlives_a_node_that_is_killed(node: NodeHost) -> None:
    async with controlled(node) as control:
        command = "for i in $(seq 1 100); do echo line $i; sleep 0.05; done"
        made = await control.create(CreateSandbox(agent="command", task=command))
        plain = await control.create(CreateSandbox())
        running = asyncio.create_task(
            control.execs.run(plain.id, ExecRequest(command="for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done"))
        )
        assert made.task is not None
        async for event in await control.tasks.follow(made.task.id):
            if event.type == "output" and node.pid:
                await asyncio.to_thread(node.kill)
                break
        with pytest.raises(NodeUnavailable):
            await control.create(CreateSandbox())
        with pytest.raises(NodeUnavailable):
            await control.create(CreateSandbox(agent="command", task="true"))
        await asyncio.to_thread(node.start)
        task, events = await finished(control, made.task.id)
        assert_whole(events)
        assert printed(events) == [f"line {i}" for i in range(1, 101)]
        assert task.state is TaskState.SUCCEEDED
        assert (await running).stdout.split() == list("12345678")
        await control.delete(plain.id)


async def test_a_delete_while_the_node_is_down_is_done_when_it_is_back(node: NodeHost) -> None:
    async with controlled(node) as control:
        made = await control.create(CreateSandbox())
        await asyncio.to_thread(node.kill)
        await control.delete(made.id)
        assert (await control.get(made.id)).state is SandboxState.STOPPING
        await asyncio.to_thread(node.start)

        async def stopped() -> bool:
            return (await control.get(made.id)).state is SandboxState.STOPPED

        await until(stopped)
        assert made.id not in on_node(node)
