"""The guest speaks E2B's wire: the real, unmodified E2B SDK works against it.

Everything in the sandbox is the guest's (run natively here); the control plane is a few lines of HTTP.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    TimeoutException,
)
from e2b.sandbox.commands.command_handle import PtySize
from e2b.sandbox.filesystem.filesystem import WriteEntry

TOKEN = "guest-token-1"
USER = pwd.getpwuid(os.getuid()).pw_name
HOME = pwd.getpwuid(os.getuid()).pw_dir


class ControlPlane(http.server.BaseHTTPRequestHandler):
    """Creates and deletes one sandbox that is already there."""

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, status: int, body: object = None) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sandbox = {"templateID": "base", "sandboxID": "i0123456789", "clientID": "local", "envdVersion": "0.6.13"}
        self._answer(201, {**sandbox, "envdAccessToken": TOKEN, "domain": None, "trafficAccessToken": None})

    def do_DELETE(self) -> None:
        self._answer(204)


@pytest.fixture(scope="module")
def control_plane() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ControlPlane)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def guest_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("guest")
    template = directory / "template.json"
    template.write_text(
        json.dumps(
            {"name": "base", "user": USER, "workdir": HOME, "env": {"FROM_TEMPLATE": "yes", "HOME": str(directory)}}
        )
    )
    command = [sys.executable, "-m", "hutch_guest", "--port", "0", "--host", "127.0.0.1", "--no-system"]
    command += ["--spool-dir", str(directory / "spool"), "--template", str(template), "--token", TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()
        process.wait(10)


@pytest.fixture
def options(control_plane: str, guest_url: str) -> dict[str, str]:
    return {"api_key": "e2b_0000", "api_url": control_plane, "sandbox_url": guest_url}


@pytest.fixture
def sandbox(options: dict[str, str]) -> Sandbox:
    return Sandbox.create(**options)


@pytest.fixture
def work(tmp_path: Path) -> str:
    return str(tmp_path)


def eventually(check: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# commands


def test_run_gives_output_and_exit_code(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_failing_command_raises_with_its_output(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo partly; exit 7")
    assert caught.value.exit_code == 7
    assert caught.value.stdout == "partly\n"


def test_environment_and_cwd(sandbox: Sandbox, work: str) -> None:
    result = sandbox.commands.run('echo "$A $FROM_TEMPLATE $USER"; pwd', envs={"A": "1"}, cwd=work)
    assert result.stdout == f"1 yes {USER}\n{work}\n"


def test_missing_cwd_is_an_invalid_argument(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentException, match="does not exist"):
        sandbox.commands.run("true", cwd="/no/such/place")


def test_output_is_streamed_to_callbacks(sandbox: Sandbox) -> None:
    seen: list[tuple[str, str]] = []
    sandbox.commands.run(
        "echo a; sleep 0.05; echo b >&2",
        on_stdout=lambda text: seen.append(("out", text)),
        on_stderr=lambda text: seen.append(("err", text)),
    )
    assert seen == [("out", "a\n"), ("err", "b\n")]


def test_large_output_is_whole(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x")
    assert result.stdout == "x" * 3_000_000


def test_timeout_is_a_timeout(sandbox: Sandbox) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 30", timeout=1)
    assert time.monotonic() - started < 5
    eventually(lambda: not [one for one in sandbox.commands.list() if one.args[-1:] == ["sleep 30"]])


def test_background_command_can_be_listed_connected_and_killed(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("while true; do echo tick; sleep 0.05; done", background=True)
    assert handle.pid in [one.pid for one in sandbox.commands.list()]
    ticks = []
    for stdout, _, _ in sandbox.commands.connect(handle.pid):
        ticks.append(stdout)
        if len(ticks) >= 2:
            break
    assert "tick" in "".join(filter(None, ticks))
    assert sandbox.commands.kill(handle.pid) is True
    with pytest.raises(CommandExitException) as caught:
        handle.wait()
    assert "killed" in (caught.value.error or "")
    assert sandbox.commands.kill(handle.pid) is False


def test_connect_to_an_unknown_process_is_not_found(sandbox: Sandbox) -> None:
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(999_999)


def test_late_connect_still_gets_the_end(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 0.1; exit 3", background=True)
    eventually(lambda: handle.pid not in [one.pid for one in sandbox.commands.list()])
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.connect(handle.pid).wait()
    assert caught.value.exit_code == 3


def test_stdin_and_its_end(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat; echo done", background=True, stdin=True)
    handle.send_stdin("one\n")
    sandbox.commands.send_stdin(handle.pid, "two\n")
    handle.close_stdin()
    assert handle.wait().stdout == "one\ntwo\ndone\n"


def test_without_stdin_a_reader_sees_the_end_at_once(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("cat; echo done").stdout == "done\n"


def test_a_command_survives_its_client(sandbox: Sandbox, work: str) -> None:
    handle = sandbox.commands.run(f"sleep 0.3; echo late > {work}/late", background=True)
    handle.disconnect()
    eventually(lambda: os.path.exists(f"{work}/late"))


# terminals


def test_terminal_with_input_and_resize(sandbox: Sandbox) -> None:
    output = bytearray()
    terminal = sandbox.pty.create(PtySize(cols=100, rows=30), envs={"PS1": "$ "})
    sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
    sandbox.pty.resize(terminal.pid, PtySize(cols=80, rows=20))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    terminal.wait(on_pty=output.extend)
    assert b"30 100" in output or b"20 80" in output
    assert b"20 80" in output


def test_terminal_can_be_killed(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(cols=80, rows=24))
    assert sandbox.pty.kill(terminal.pid) is True
    with pytest.raises(CommandExitException):
        terminal.wait()


# files


def test_text_and_bytes_written_and_read(sandbox: Sandbox, work: str) -> None:
    info = sandbox.files.write(f"{work}/new/dir/a.txt", "héllo")
    assert info.path == f"{work}/new/dir/a.txt"
    assert sandbox.files.read(info.path) == "héllo"
    blob = os.urandom(2_000_000)
    sandbox.files.write(f"{work}/blob", blob)
    assert bytes(sandbox.files.read(f"{work}/blob", format="bytes")) == blob
    assert b"".join(sandbox.files.read(f"{work}/blob", format="stream")) == blob


def test_an_empty_file(sandbox: Sandbox, work: str) -> None:
    sandbox.files.write(f"{work}/empty", "")
    assert sandbox.files.read(f"{work}/empty") == ""


def test_files_without_a_size_are_read_to_their_end(sandbox: Sandbox) -> None:
    assert len(sandbox.files.read("/proc/sys/kernel/random/boot_id").strip()) == 36


def test_several_files_at_once(sandbox: Sandbox, work: str) -> None:
    entries = [WriteEntry(path=f"{work}/f{n}", data=f"data {n}") for n in range(5)]
    assert [info.name for info in sandbox.files.write_files(entries)] == ["f0", "f1", "f2", "f3", "f4"]
    assert Path(work, "f3").read_text() == "data 3"


def test_odd_file_names(sandbox: Sandbox, work: str) -> None:
    for name in ("sp ace.txt", "per%22cent", "ünï.txt", "semi;colon=1"):
        sandbox.files.write(f"{work}/{name}", name)
        assert sandbox.files.read(f"{work}/{name}") == name
        assert sandbox.files.exists(f"{work}/{name}")


def test_missing_file_is_not_found(sandbox: Sandbox, work: str) -> None:
    with pytest.raises(NotFoundException):
        sandbox.files.read(f"{work}/missing")
    assert not sandbox.files.exists(f"{work}/missing")


def test_a_directory_is_no_file(sandbox: Sandbox, work: str) -> None:
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read(work)
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write(work, "x")


def test_metadata(sandbox: Sandbox, work: str) -> None:
    info = sandbox.files.write(f"{work}/labelled", "x", metadata={"origin": "test"})
    assert info.metadata == {"origin": "test"}
    assert sandbox.files.get_info(f"{work}/labelled").metadata == {"origin": "test"}
    sandbox.files.write(f"{work}/labelled", "y")
    assert not sandbox.files.get_info(f"{work}/labelled").metadata


def test_directories(sandbox: Sandbox, work: str) -> None:
    assert sandbox.files.make_dir(f"{work}/a/b") is True
    assert sandbox.files.make_dir(f"{work}/a/b") is False
    sandbox.files.write(f"{work}/a/one", "1")
    sandbox.files.write(f"{work}/a/b/two", "2")
    assert [entry.name for entry in sandbox.files.list(f"{work}/a")] == ["b", "one"]
    assert [entry.path[len(work) :] for entry in sandbox.files.list(f"{work}/a", depth=2)] == [
        "/a/b",
        "/a/b/two",
        "/a/one",
    ]
    assert sandbox.files.rename(f"{work}/a/one", f"{work}/c/three").path == f"{work}/c/three"
    sandbox.files.remove(f"{work}/a")
    assert not os.path.exists(f"{work}/a")
    sandbox.files.remove(f"{work}/a")


def test_errors_of_directories(sandbox: Sandbox, work: str) -> None:
    sandbox.files.write(f"{work}/file", "x")
    with pytest.raises(NotFoundException):
        sandbox.files.list(f"{work}/missing")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list(f"{work}/file")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.make_dir(f"{work}/file")
    with pytest.raises(NotFoundException):
        sandbox.files.rename(f"{work}/missing", f"{work}/x")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list(work, depth=0)


def test_entry_info(sandbox: Sandbox, work: str) -> None:
    sandbox.files.write(f"{work}/file", "12345")
    os.symlink(f"{work}/file", f"{work}/link")
    info = sandbox.files.get_info(f"{work}/file")
    assert (info.name, info.type, info.size, info.owner) == ("file", FileType.FILE, 5, USER)
    assert (info.permissions, info.mode) == ("-rw-r--r--", 0o644)
    assert abs(info.modified_time.timestamp() - time.time()) < 60
    link = sandbox.files.get_info(f"{work}/link")
    assert link.symlink_target == f"{work}/file"


def test_watcher(sandbox: Sandbox, work: str) -> None:
    watcher = sandbox.files.watch_dir(work, recursive=True)
    sandbox.files.make_dir(f"{work}/sub")
    time.sleep(0.05)
    sandbox.files.write(f"{work}/sub/file", "x")
    events = []
    eventually(lambda: events.extend(watcher.get_new_events()) or any(one.name == "sub/file" for one in events))
    assert any(one.name == "sub" and one.type == FilesystemEventType.CREATE for one in events)
    watcher.stop()


def test_watching_what_is_no_directory(sandbox: Sandbox, work: str) -> None:
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir(f"{work}/missing")


def test_signed_urls(sandbox: Sandbox, work: str) -> None:
    import httpx

    sandbox.files.write(f"{work}/signed", "s")
    url = sandbox.download_url(f"{work}/signed", use_signature_expiration=60)
    assert httpx.get(url).text == "s"
    assert httpx.get(url.replace("signature=v1_", "signature=v1_x")).status_code == 401
    expired = sandbox.download_url(f"{work}/signed", use_signature_expiration=-10)
    assert httpx.get(expired).json() == {"code": 401, "message": "signature is already expired"}
    upload = sandbox.upload_url(f"{work}/posted")
    assert httpx.post(upload, files={"file": ("posted", b"p")}).status_code == 200
    assert Path(work, "posted").read_text() == "p"


def test_is_running(sandbox: Sandbox) -> None:
    assert sandbox.is_running()


# the asynchronous client


async def test_async_commands_and_watch(options: dict[str, str], work: str) -> None:
    sandbox = await AsyncSandbox.create(**options)
    seen: list[str] = []
    watch = await sandbox.files.watch_dir(work, on_event=lambda event: seen.append(event.name))
    results = await asyncio.gather(*(sandbox.commands.run(f"echo {n} > {work}/f{n}; echo {n}") for n in range(10)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(10)]
    for _ in range(100):
        if len(set(seen)) >= 10:
            break
        await asyncio.sleep(0.02)
    assert set(seen) == {f"f{n}" for n in range(10)}
    await watch.stop()


async def test_async_stdin_and_kill(options: dict[str, str]) -> None:
    sandbox = await AsyncSandbox.create(**options)
    handle = await sandbox.commands.run("cat", background=True, stdin=True)
    await handle.send_stdin("hello")
    await handle.close_stdin()
    assert (await handle.wait()).stdout == "hello"
    sleeper = await sandbox.commands.run("sleep 60", background=True)
    assert await sleeper.kill() is True
    with pytest.raises(CommandExitException):
        await sleeper.wait()
