"""What a program notices that looks closely: which error it gets, what a command's end says, what outlives what."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    TimeoutException,
)

from conftest import VERSION

Create = Callable[..., Sandbox]


def test_how_commands_end(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo out; echo err >&2; exit 3")
    ended = caught.value
    assert (ended.exit_code, ended.stdout, ended.stderr, ended.error) == (3, "out\n", "err\n", "exit status 3")
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("kill -9 $$")
    assert (caught.value.exit_code, caught.value.error) == (-1, "signal: killed")
    with pytest.raises(AuthenticationException, match="no-such-user"):
        sandbox.commands.run("true", user="no-such-user")
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("no-such-program")
    assert caught.value.exit_code == 127


def test_an_end_can_be_heard_late(sandbox: Sandbox) -> None:
    command = sandbox.commands.run("exit 5", background=True)
    with pytest.raises(CommandExitException):
        command.wait()
    assert command.pid not in [one.pid for one in sandbox.commands.list()]
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.connect(command.pid).wait()
    assert caught.value.exit_code == 5


def test_input_that_cannot_be_taken(sandbox: Sandbox) -> None:
    closed = sandbox.commands.run("sleep 30", background=True)
    with pytest.raises(SandboxException, match="stdin"):
        sandbox.commands.send_stdin(closed.pid, "lost")
    closed.kill()
    with pytest.raises(NotFoundException):
        sandbox.commands.send_stdin(4_000_000, "lost")


def test_a_timeout_in_the_background(sandbox: Sandbox) -> None:
    command = sandbox.commands.run("echo begun; sleep 60", background=True, timeout=1)
    with pytest.raises(TimeoutException):
        command.wait()


def test_what_files_cannot_be(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("details/dir")
    sandbox.files.write("details/file", "1")
    for wrong in (
        lambda: sandbox.files.write("details/dir", "1"),
        lambda: sandbox.files.make_dir("details/file"),
        lambda: sandbox.files.list("details/file"),
        lambda: sandbox.files.watch_dir("details/file"),
        lambda: sandbox.files.read("~other/file"),
        lambda: sandbox.files.write_files([{"path": "details/a", "data": "1"}, {"path": "details/a", "data": "2"}]),
    ):
        with pytest.raises(InvalidArgumentException):
            wrong()
    for missing in (
        lambda: sandbox.files.watch_dir("details/none"),
        lambda: sandbox.files.rename("details/none", "details/other"),
    ):
        with pytest.raises(NotFoundException):
            missing()
    with pytest.raises(AuthenticationException):
        sandbox.files.write("details/file", "1", user="no-such-user")
    sandbox.files.remove("details/none")  # as on E2B: that it is not there is what was wanted


def test_links(sandbox: Sandbox) -> None:
    sandbox.commands.run(
        "mkdir -p ~/links/dir && cd ~/links && echo 1 >dir/file && ln -s dir/file to && ln -s none dead"
    )
    info = sandbox.files.get_info("links/to")
    assert info.symlink_target == "/home/user/links/dir/file" and info.permissions.startswith("L")
    assert sandbox.files.read("links/to") == "1\n"
    assert [one.name for one in sandbox.files.list("links", depth=1)] == ["dir", "to"]  # the client shows no dead ones
    assert sandbox.files.exists("links/dead")
    sandbox.files.write("links/to", "2")
    assert sandbox.files.read("links/dir/file") == "2"


def test_parts_of_a_file(sandbox: Sandbox) -> None:
    sandbox.files.write("details/parts", "0123456789")
    url = sandbox.download_url("details/parts")
    for asked, status, answer in (("bytes=2-4", 206, b"234"), ("bytes=-3", 206, b"789"), ("bytes=8-", 206, b"89")):
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": asked})) as got:
            assert (got.status, got.read()) == (status, answer)


@pytest.mark.skipif(VERSION < (2, 52), reason="an option of newer clients")
def test_metadata_that_cannot_be_kept(sandbox: Sandbox) -> None:
    sandbox.files.write("details/tagged", "1", metadata={"a": "1"})
    sandbox.files.write("details/tagged", "1")
    assert not sandbox.files.get_info("details/tagged").metadata
    with pytest.raises(SandboxException):
        sandbox.files.write("details/tagged", "1", metadata={"a": "x" * 5000})


def test_a_terminal_goes_on_without_its_first_viewer(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), cwd="/tmp", envs={"MARK": "kept"}, timeout=60)
    terminal.disconnect()
    viewer = sandbox.pty.connect(terminal.pid)
    sandbox.pty.send_stdin(terminal.pid, b"echo at $PWD $MARK $TERM $((40+2)); exit\n")
    seen = b"".join(data for _, _, data in viewer if data)
    assert b"at /tmp kept xterm-256color 42" in seen
    with pytest.raises(NotFoundException):
        sandbox.pty.resize(4_000_000, PtySize(rows=1, cols=1))


def test_tokens_and_who_may_use_them(own: Create) -> None:
    made, other = own(), own()
    tokens = made.connection_config.sandbox_headers if VERSION >= (2, 52) else made._envd_access_token
    made.pause()
    again = Sandbox.connect(made.sandbox_id)
    same = again.connection_config.sandbox_headers if VERSION >= (2, 52) else again._envd_access_token
    assert same == tokens and same
    url = made.download_url("/etc/hostname").replace(made.sandbox_id, other.sandbox_id)
    stranger = urllib.request.Request(url, headers={"E2b-Sandbox-Id": other.sandbox_id, "E2b-Sandbox-Port": "49983"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(stranger)
    assert caught.value.code == 401


@pytest.mark.skipif(VERSION < (2, 60), reason="an option of newer clients")
def test_a_reboot_instead_of_a_resume(own: Create) -> None:
    made = own()
    boot = made.files.read("/proc/sys/kernel/random/boot_id")
    made.files.write("kept", "1")
    made.pause()
    again = Sandbox.connect(made.sandbox_id, on_resume="reboot")
    assert again.files.read("kept") == "1" and again.files.read("/proc/sys/kernel/random/boot_id") != boot


def test_what_ends_a_sandbox_is_told_in_words(own: Create) -> None:
    """The two phrases by which clients know why nothing answers."""
    made = own()
    asked = {"E2b-Sandbox-Id": made.sandbox_id, "E2b-Sandbox-Port": "4567"}
    for phrase in ("port is not open", "was not found"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(os.environ["E2B_SANDBOX_URL"], headers=asked))
        assert caught.value.code == 502 and phrase in caught.value.read().decode()
        made.kill()
    started = time.monotonic()
    with pytest.raises((SandboxException, TimeoutException)):
        made.files.read("x")
    assert time.monotonic() - started < 15
