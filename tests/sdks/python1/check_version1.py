"""The first major version of E2B's client: host names and TLS, the first version of the API."""

from __future__ import annotations

import urllib.request

import pytest
from e2b import CommandExitException, NotFoundException, Sandbox, TimeoutException
from e2b.sandbox.sandbox_api import SandboxQuery


def test_life(sandbox: Sandbox) -> None:
    info = sandbox.get_info()
    assert info.sandbox_id.startswith(sandbox.sandbox_id) and info.metadata == {"of": "version-1"}
    (listed,) = Sandbox.list(query=SandboxQuery(metadata={"of": "version-1"}))
    assert listed.sandbox_id == info.sandbox_id
    sandbox.set_timeout(200)
    assert sandbox.is_running()
    assert Sandbox.connect(sandbox.sandbox_id).commands.run("echo $GREETING").stdout == "hello\n"
    other = Sandbox(timeout=60, secure=True)
    assert other.commands.run("echo secured").stdout == "secured\n"
    other.kill()
    assert not other.is_running()


def test_commands(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo partly; exit 7")
    assert (caught.value.exit_code, caught.value.stdout) == (7, "partly\n")
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 30", timeout=1)
    command = sandbox.commands.run("read line; echo got $line; sleep 60", background=True)
    sandbox.commands.send_stdin(command.pid, "it\n")
    assert next(text for text, _, _ in command if text) == "got it\n"
    assert command.pid in [one.pid for one in sandbox.commands.list()] and command.kill()


def test_files(sandbox: Sandbox) -> None:
    sandbox.files.write("one/a.txt", "text")
    assert sandbox.files.read("one/a.txt") == "text"
    sandbox.files.write("one/b", b"\x00\x01")
    assert bytes(sandbox.files.read("one/b", format="bytes")) == b"\x00\x01"
    assert [one.name for one in sandbox.files.list("one")] == ["a.txt", "b"]
    assert sandbox.files.make_dir("one/dir") and sandbox.files.exists("one/dir")
    sandbox.files.rename("one/b", "one/dir/b")
    sandbox.files.remove("one")
    with pytest.raises(NotFoundException):
        sandbox.files.read("one/a.txt")
    watch = sandbox.files.watch_dir("/tmp")
    sandbox.files.write("/tmp/seen", "1")
    sandbox.commands.run("sleep 0.2")
    assert "seen" in [event.name for event in watch.get_new_events()]
    watch.stop()


def test_a_port_by_its_host_name(sandbox: Sandbox) -> None:
    sandbox.commands.run("mkdir -p /tmp/www; echo found > /tmp/www/page")
    sandbox.commands.run("cd /tmp/www; exec python3 -m http.server 8000", background=True, timeout=0)
    sandbox.commands.run("for i in $(seq 50); do curl -sf localhost:8000/page && break; sleep 0.2; done")
    with urllib.request.urlopen(f"https://{sandbox.get_host(8000)}/page") as answer:
        assert answer.read() == b"found\n"
