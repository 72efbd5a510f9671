"""The command, for real: `hutch up` in directories of its own, sandboxes, terminals, crashes, and nothing left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests import programs

from hutch.demo.leftovers import traces_of

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

COMMAND = [sys.executable, "-m", "hutch.cli"]
DAEMONS = ("up", "down", "doctor")
"""Commands that start Python themselves, or look at the one that they run in: never forked."""


class Hutch:
    """A Hutch of this test's own, used through the command only."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
        self.root.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HUTCH_")}
        self.env = {
            **kept,
            "HUTCH_DATA_DIR": str(self.root / "data"),
            "HUTCH_RUN_DIR": str(self.root / "run"),
            "HUTCH_PORT": "0",
            "HUTCH_GATEWAY_PORT": "0",
            "HUTCH_TLS_PORT": "0",
            "HUTCH_TLS_HOST": "127.0.0.1",
            "HUTCH_SLOTS_AHEAD": "1",
            "XDG_CONFIG_HOME": str(self.root / "config"),
        }

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        return subprocess.Popen([*COMMAND, *arguments], env=self.env, **options)

    def __call__(self, *arguments: str, input: bytes = b"", code: int | None = 0, timeout: float = 120) -> bytes:
        """A command's standard output; its exit code must be `code` (None: any)."""
        if arguments[0] in DAEMONS:
            done = subprocess.run(
                [*COMMAND, *arguments], env=self.env, input=input, capture_output=True, timeout=timeout, check=False
            )
        else:
            done = programs.capture("hutch.cli", *arguments, env=self.env, input=input, timeout=timeout)
        said = done.stderr.decode(errors="replace")
        assert "Traceback" not in said, said
        assert code is None or done.returncode == code, f"exit code {done.returncode}\n{said}\n{done.stdout!r}"
        self.said = said
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def daemon(self, module: str) -> int:
        """The pid of a daemon of ours."""
        mark = f"HUTCH_RUN_DIR={self.root}/run".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if module.encode() in words and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return int(pid)
            except OSError:
                continue
        return 0

    def sandbox(self) -> str:
        """A sandbox that stays."""
        made = json.loads(self("run", "--keep", "--json", "--", "true").splitlines()[0])
        return str(made["sandbox"]["id"])

    def close(self) -> list[str]:
        """Take everything down; what is left all the same."""
        traces = traces_of(self.root)
        try:
            subprocess.run([*COMMAND, "down"], env=self.env, timeout=120, check=True, capture_output=True)
            return traces.left().names()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def hutch(standard_template: str) -> Iterator[Hutch]:
    running = Hutch()
    try:
        running("up", "-d", "--domain", "box.test", "--tls", "self")
        yield running
    finally:
        left = running.close()
    assert left == []


@pytest.fixture(scope="module")
def box(hutch: Hutch) -> str:
    return hutch.sandbox()


@pytest.fixture
def own(standard_template: str) -> Iterator[Hutch]:
    """One that the test may ill-treat."""
    running = Hutch()
    try:
        yield running
    finally:
        left = running.close()
    assert left == []


@pytest.fixture(scope="module")
def rough(standard_template: str) -> Iterator[Hutch]:
    """One for all tests that stop and kill its daemons: each calls `up` first, and leaves no sandbox. To start and
    stop takes longer than what they look at."""
    running = Hutch()
    try:
        yield running
    finally:
        left = running.close()
    assert left == []


def test_up_saves_the_key_for_this_user_only(hutch: Hutch) -> None:
    path = hutch.root / "config" / "hutch" / "credentials.json"
    saved = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert saved["api_key"].startswith("hk_")
    assert not (hutch.root / "run" / "up" / "first-key").exists()
    logs = "".join(each.read_text() for each in (hutch.root / "data" / "logs").iterdir())
    assert saved["api_key"] not in logs


def test_second_up_finds_the_first(hutch: Hutch) -> None:
    assert b"already up" in hutch("up", "-d")
    assert hutch.json("up", "-d")["already_up"] is True
    hutch("up", code=1)
    assert "already up" in hutch.said


def test_names_and_the_authority_that_vouches_for_them(hutch: Hutch) -> None:
    names = hutch.json("up", "-d")["tls"]
    port = urlsplit(names).port
    assert names == f"https://api.box.test:{port}"
    authority = hutch("tls", "ca").decode()
    trusting = ssl.create_default_context(cadata=authority)
    with (
        socket.create_connection(("127.0.0.1", port or 0)) as plain,
        trusting.wrap_socket(plain, server_hostname="api.box.test") as secure,
    ):
        secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: api.box.test\r\nConnection: close\r\n\r\n")
        assert secure.recv(100).startswith(b"HTTP/1.1 200 ")
    hints = hutch("tls", "trust").decode()
    path = hutch.root / "data" / "tls" / "box.test" / "ca.pem"
    assert f"NODE_EXTRA_CA_CERTS={path}" in hints and path.read_text() == authority


def test_up_says_which_file_is_wrong(own: Hutch) -> None:
    own("up", "-d", "--domain", "box.test", "--tls", "/nowhere/chain.pem", "/nowhere/key.pem", code=1)
    assert "/nowhere/chain.pem cannot be read: No such file" in own.said
    own("up", "-d", "--tls", "self", code=1)
    assert "hutch up --domain box.example.org" in own.said


def test_doctor_is_content(hutch: Hutch) -> None:
    said = {check["name"]: check for check in hutch.json("doctor")}
    found = {name: check["status"] for name, check in said.items()}
    assert "fail" not in found.values(), found
    assert "*.box.test" in said["certificate"]["detail"] and "DNS" in said["names"]["fix"]
    assert found["node"] == found["server"] == found["gVisor"] == "ok"
    assert b"gVisor" in hutch("doctor")


def test_run_a_command(hutch: Hutch, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello\n")
    line = "cat in/a.txt; echo oops >&2; mkdir -p out/deep; echo made > out/deep/b.txt; exit 7"
    stdout = hutch(
        "run", "-i", f"{tmp_path}/in", "-o", "out/**", "--output-dir", str(tmp_path / "here"),
        "--", "sh", "-c", line, code=7,
    )  # fmt: skip
    assert stdout == b"hello\n"
    assert "oops" in hutch.said and "✗ failed" in hutch.said
    assert (tmp_path / "here" / "out" / "deep" / "b.txt").read_text() == "made\n"
    eventually(lambda: not [each for each in hutch.json("ps") if each["task"] and each["task"]["result"]])


def test_run_ends_at_its_time(hutch: Hutch) -> None:
    hutch("run", "--timeout", "2s", "--", "sleep", "100", code=3)
    assert "✗ stopped: the budget of 2 s of run time" in hutch.said


def test_exec_is_as_if_it_ran_here(hutch: Hutch, box: str) -> None:
    assert hutch("exec", box, "--", "sh", "-c", "echo out; echo err >&2; exit 3", code=3) == b"out\n"
    assert hutch.said == "err\n"
    assert hutch("exec", box, "ls", "-d", "/etc") == b"/etc\n"
    assert hutch("exec", "-u", "root", box[4:12], "id", "-u") == b"0\n"
    assert hutch("exec", "-w", "/tmp", "-e", "A=b c", box, "--", "sh", "-c", 'pwd; echo "$A"') == b"/tmp\nb c\n"
    assert hutch("exec", "-c", box, "echo $((1 + 1)) | tr 2 3") == b"3\n"
    hutch("exec", box, "no-such-program", code=None)


def test_pause_snapshot_rollback_and_fork(hutch: Hutch) -> None:
    box = hutch.sandbox()
    hutch("exec", "-c", box, "echo one > a")
    clean = hutch("snapshot", box, "--name", "clean").decode().strip()
    hutch("exec", "-c", box, "echo two > a")
    assert hutch("pause", box).decode().strip() == box
    assert f"{box[:12]}  paused" in " ".join(hutch("ps").decode().split("\n")).replace("   ", "  ")
    assert hutch("exec", box, "cat", "a") == b"two\n"
    hutch("rollback", box, "clean")
    assert hutch("exec", box, "cat", "a") == b"one\n"
    forks = hutch("fork", box, "-n", "2", "--from", "clean").decode().split()
    assert len(set(forks)) == 2
    tree = hutch("timeline", box, "--full").decode()
    assert tree.startswith(clean) and "clean" in tree and "safety" in tree and "─ " in tree
    assert hutch("exec", forks[0], "cat", "a") == b"one\n"
    hutch("kill", box, *forks)
    taken = hutch("snapshot", "import", "-", input=hutch("snapshot", "export", clean, "-")).decode().strip()
    assert taken in hutch("snapshot", "ls", "--full").decode()
    hutch("snapshot", "import", str(Path(os.devnull, "no-such-file")), code=2)
    hutch("snapshot", "rm", taken, clean)


def test_a_paused_sandbox_outlives_down_and_up(rough: Hutch) -> None:
    rough("up", "-d")
    box = rough.sandbox()
    rough("exec", "-c", box, "echo kept > a")
    rough("pause", box)
    rough("down")
    rough("up", "-d")
    assert [each["state"] for each in rough.json("ps")] == ["paused"]
    assert rough("exec", box, "cat", "a") == b"kept\n"
    rough("kill", box)


def test_exec_passes_standard_input_through(hutch: Hutch, box: str) -> None:
    data = os.urandom(3_000_000)
    assert hutch("exec", box, "cat", input=data) == data
    assert hutch("exec", box, "wc", "-c", input=data) == b"3000000\n"
    assert hutch("exec", box, "head", "-c", "4", input=data) == data[:4]


def test_exec_takes_standard_input_from_what_cannot_be_polled(hutch: Hutch, box: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(bytes(range(256)) * 4096)
    for path in (Path(os.devnull), tmp_path / "input"):
        with path.open("rb") as file:
            process = hutch.start("exec", box, "cat", stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, path.read_bytes(), b"")


def test_exec_times_out_and_takes_its_children_along(hutch: Hutch, box: str) -> None:
    hutch("exec", "--timeout", "1s", box, "--", "sh", "-c", "sleep 1234 & setsid sleep 1234 & wait", code=137)
    assert "timeout" in hutch.said
    assert b"1234" not in hutch("exec", box, "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; :")


def test_exec_detached_and_its_output_later(hutch: Hutch, box: str) -> None:
    id = hutch("exec", "-d", box, "--", "sh", "-c", "echo one; sleep 1; echo two; exit 4").decode().strip()
    assert hutch("logs", "-f", "--exec", id, box, code=4) == b"one\ntwo\n"
    assert hutch("logs", "--exec", id, box, code=4) == b"one\ntwo\n"


def test_interrupt_of_exec_reaches_the_command(hutch: Hutch, box: str) -> None:
    line = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    with hutch.start(
        "exec", box, "--", "bash", "-c", line, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
    assert process.returncode == 5


class Terminal:
    """A terminal of a test's own, with a command in it."""

    def __init__(self, hutch: Hutch, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(100, 30)

        def join() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = hutch.start(*arguments, stdin=slave, stdout=slave, stderr=slave, preexec_fn=join)
        os.close(slave)
        self.shown = b""

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: bytes, seconds: float = 60) -> None:
        """Read until this is shown, or (with b"") until the end."""
        os.set_blocking(self.master, False)
        end = time.monotonic() + seconds
        while not text or text not in self.shown:
            assert time.monotonic() < end, self.shown
            try:
                data = os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:
                data = b""
            if not data:
                assert not text, self.shown
                return
            self.shown += data

    def end(self) -> int:
        self.until(b"")
        os.close(self.master)
        return self.process.wait(30)


def test_shell_is_a_real_terminal(hutch: Hutch, box: str) -> None:
    terminal = Terminal(hutch, "shell", box)
    terminal.until(b"$ ")
    terminal.type("stty size; echo user=$(whoami)\n")
    terminal.until(b"30 100")
    terminal.until(b"user=user")
    terminal.resize(132, 43)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.type("until [ \"$(stty size)\" = '43 132' ]; do sleep 0.05; done; echo resized$((40 + 1))\n")
    terminal.until(b"resized41")
    # What is typed too early is thrown away by the Ctrl-C, so each step waits until the one before is seen.
    terminal.type("sh -c 'echo asleep$((40 + 2)); exec sleep 100'\n")
    terminal.until(b"asleep42")
    terminal.shown = b""
    terminal.type("\x03")  # ends the sleep, not the shell
    terminal.until(b"$ ")
    terminal.type("echo back$((40 + 3)); exit 6\n")
    terminal.until(b"back43")
    assert terminal.end() == 6


def test_shell_in_a_new_sandbox_destroys_it(hutch: Hutch) -> None:
    before = {each["id"] for each in hutch.json("ps")}
    terminal = Terminal(hutch, "shell", "--template", "standard")
    terminal.until(b"$ ")
    terminal.type("exit\n")
    assert terminal.end() == 0
    assert {each["id"] for each in hutch.json("ps")} == before


def test_shell_without_a_terminal_says_so(hutch: Hutch, box: str) -> None:
    hutch("shell", box, code=1)
    assert "no terminal" in hutch.said


def test_copy_in_and_out(hutch: Hutch, box: str, tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "x.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "d" / "sub" / "x.sh").chmod(0o755)
    (tmp_path / "d" / "skip.log").write_text("x")
    (tmp_path / "f.bin").write_bytes(os.urandom(2_000_000))
    hutch("cp", str(tmp_path / "f.bin"), f"{box}:copied.bin")
    hutch("cp", "-x", "*.log", str(tmp_path / "d"), f"{box[4:14]}:/home/user/dir")
    assert hutch("exec", box, "dir/sub/x.sh") == b"ran\n"
    hutch("exec", box, "ls", "dir/skip.log", code=2)
    hutch("cp", str(tmp_path / "d"), f"{box}:dir/")
    hutch("exec", box, "ls", "dir/d/sub/x.sh")
    hutch("cp", f"{box}:copied.bin", str(tmp_path / "back.bin"))
    assert (tmp_path / "back.bin").read_bytes() == (tmp_path / "f.bin").read_bytes()
    hutch("cp", f"{box}:dir", str(tmp_path))
    assert (tmp_path / "dir" / "sub" / "x.sh").stat().st_mode & 0o111
    hutch("cp", "-", f"{box}:piped", input=b"from a pipe")
    assert hutch("cp", f"{box}:piped", "-") == b"from a pipe"
    hutch("cp", f"{box}:nothing", str(tmp_path / "n"), code=1)
    assert not (tmp_path / "n").exists() and "does not exist" in hutch.said


def test_ps_and_kill(hutch: Hutch, box: str) -> None:
    other = hutch.sandbox()
    assert {box, other} <= {each["id"] for each in hutch.json("ps")}
    assert hutch("kill", other[:14]).decode().strip() == other
    assert other not in {each["id"] for each in hutch.json("ps")}
    ended = {each["id"]: each["state"] for each in hutch.json("ps", "--all")}
    assert ended[other] == "stopped"
    hutch("exec", other, "true", code=1)


REFUSED = "import socket,time\ntry: socket.create_connection(('192.0.2.66', 443), 5)\nexcept OSError: time.sleep(3)"


def test_policies_and_what_they_refuse(hutch: Hutch) -> None:
    told = hutch("run", "--keep", "--json", "--network", "example.org", "--", "python3", "-c", REFUSED).splitlines()
    events = [json.loads(line) for line in told]
    refusals = [event["data"]["message"] for event in events if event["type"] == "egress"]
    assert refusals == ["blocked: 192.0.2.66:443 (not in policy)"]
    (made,) = [each for each in hutch.json("ps") if each["network"] == {**each["network"], "allow": ["example.org"]}]
    assert b"blocked: 192.0.2.66:443 (not in policy)" in hutch("egress", made["id"], "--refused")
    assert hutch.json("policy", "set", made["id"], "packages", "*.example.com")["policies"] == ["packages"]
    assert hutch.json("policy", "learn", made["id"]) == {"mode": "rules", "allow": []}
    assert hutch.json("policy", "save", "mine", "example.org", "--from", made["id"])["allow"] == ["example.org"]
    hutch("policy", "set", made["id"], "mine")
    known = {each["name"]: (each["built_in"], each["sandboxes"]) for each in hutch.json("policy", "ls")}
    assert known["mine"] == (False, 1) and known["packages"] == (True, 0)
    assert hutch("policy", "show", "mine").split() == [b"example.org"]
    hutch("policy", "rm", "mine", code=None)
    assert "1 sandbox stands on the policy mine" in hutch.said
    hutch("policy", "save", "mine", code=None)
    assert "needs rules" in hutch.said
    hutch("policy", "set", made["id"], "*", code=None)
    assert "it is everything" in hutch.said
    hutch("kill", made["id"])
    hutch("policy", "rm", "mine")


def test_secrets_that_nobody_sees(hutch: Hutch) -> None:
    value, own = "ghp_0123456789abcdefABCDEF0123456789abcd", "plain-value-of-a-database"
    hutch("secret", "set", "TOKEN", "--for", "api.example.org,*.example.com:443,8443", input=f"{value}\n".encode())
    hutch("secret", "set", "PLAIN", "--as", "env", input=own.encode())
    listed = hutch("secret", "ls", "--json").decode()
    assert value not in listed and own not in listed
    by_name = {each["name"]: each for each in json.loads(listed)}
    assert by_name["TOKEN"]["hosts"] == ["api.example.org", "*.example.com:443,8443"]
    hutch("run", "--secret", "TOKEN", "--", "true", code=None)
    assert "A secret opens nothing" in hutch.said
    hutch("run", "--secret", "NONE", "--", "true", code=None)
    assert "there is no secret NONE" in hutch.said
    show = "echo $TOKEN; echo $PLAIN; sudo -n cat /run/hutch/trust/authority.pem | openssl x509 -noout -text"
    options = ("--secret", "TOKEN", "--secret", "PLAIN", "--network", "api.example.org", "--keep")
    said = hutch("run", *options, "--", "bash", "-c", show).decode()
    placeholder = next(line for line in said.splitlines() if "ghp_" in line).strip()
    assert placeholder != value and len(placeholder) == len(value) and own in said
    assert "DNS:api.example.org" in said and "DNS:example.com" in said
    (made,) = [each for each in hutch.json("ps") if each["secrets"] == ["TOKEN", "PLAIN"]]
    hutch("secret", "rekey")
    (fork,) = hutch.json("fork", made["id"])
    assert hutch("exec", fork["id"], "--", "bash", "-c", "echo [$TOKEN$PLAIN]").strip() == b"[]"
    hutch("pause", made["id"])
    assert hutch("exec", made["id"], "--", "bash", "-c", "echo $TOKEN").decode().strip() == placeholder
    hutch("secret", "rm", "TOKEN")
    assert [each["name"] for each in hutch.json("secret", "ls")] == ["PLAIN"]
    hutch("kill", made["id"], fork["id"])


def test_interrupt_of_run_cancels_the_task(hutch: Hutch) -> None:
    with hutch.start("run", "--", "sh", "-c", "echo ready; sleep 100", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 5


def test_detached_run_and_its_logs(hutch: Hutch) -> None:
    id = hutch("run", "-d", "--", "sh", "-c", "echo one; sleep 1; exit 9").decode().strip()
    assert hutch("logs", "-f", id, code=9) == b"one\n"
    assert hutch("logs", id) == b"one\n"
    assert hutch.json("task", "show", id)["result"]["exit_code"] == 9


def test_e2b_prints_where_to_and_a_key_that_opens(hutch: Hutch) -> None:
    values = json.loads(hutch("e2b", "--json"))
    with httpx.Client(headers={"X-API-KEY": values["E2B_API_KEY"]}, trust_env=False) as client:
        assert client.get(f"{values['E2B_API_URL']}/v2/sandboxes").status_code == 200
        assert client.get(values["E2B_SANDBOX_URL"]).status_code == 400  # it answers, and misses the headers
    assert f"export E2B_API_KEY={values['E2B_API_KEY']}\n" in hutch("e2b").decode()


def test_keys_that_are_made_work_until_revoked(hutch: Hutch) -> None:
    made = hutch.json("key", "create", "test")
    hutch("--api-key", made["key"], "ps")
    hutch("key", "revoke", made["id"])
    hutch("--api-key", made["key"], "ps", code=1)
    assert "error: " in hutch.said and "hint: " in hutch.said


def test_killed_daemons_come_back_and_sandboxes_do_not_notice(rough: Hutch) -> None:
    rough("up", "-d")
    box = rough.sandbox()
    id = (
        rough("exec", "-d", box, "--", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done")
        .decode()
        .strip()
    )
    for module in ("hutch.api", "hutch.node"):
        before = rough.daemon(module)
        os.kill(before, signal.SIGKILL)
        eventually(lambda before=before, module=module: rough.daemon(module) not in (0, before))
    whole = b"1\n2\n3\n4\n5\n6\n7\n8\n"
    eventually(lambda: rough("logs", "-f", "--exec", id, box, code=None) == whole)  # once they answer again
    assert "starting it again" in (rough.root / "data" / "logs" / "up.log").read_text()
    rough("kill", box)


def test_killed_supervisor_is_followed_by_another(rough: Hutch) -> None:
    url = rough.json("up", "-d")["url"]
    box = rough.sandbox()
    os.kill(json.loads((rough.root / "run" / "up.json").read_text())["pid"], signal.SIGKILL)
    old = rough.daemon("hutch.node")
    assert old and rough("exec", box, "echo", "alive") == b"alive\n", "the daemons go on alone"
    assert rough.json("up", "-d")["url"] != url
    assert rough.daemon("hutch.node") != old
    assert rough("exec", box, "echo", "alive") == b"alive\n"
    rough("kill", box)


def test_down_keep_leaves_sandboxes_for_the_next_up(rough: Hutch) -> None:
    rough("up", "-d")
    box = rough.sandbox()
    rough("exec", box, "--", "sh", "-c", "echo kept > f")
    assert rough.json("down", "--keep") == {"stopped": True, "sandboxes": 1, "kept": True}
    assert rough.daemon("hutch.node") == rough.daemon("hutch.api") == 0
    rough("up", "-d")
    assert rough("exec", box, "cat", "f") == b"kept\n"
    assert rough.json("down") == {"stopped": True, "sandboxes": 1, "kept": False}
    assert rough.json("down")["sandboxes"] == 0


def test_down_after_everything_was_killed_removes_what_is_left(rough: Hutch) -> None:
    rough("up", "-d")
    rough.sandbox()
    os.kill(json.loads((rough.root / "run" / "up.json").read_text())["pid"], signal.SIGKILL)
    for module in ("hutch.api", "hutch.node"):
        os.kill(rough.daemon(module), signal.SIGKILL)
    assert rough.json("down") == {"stopped": True, "sandboxes": 1, "kept": False}


def test_foreground_up_ends_with_ctrl_c_and_destroys_sandboxes(own: Hutch) -> None:
    with own.start("up", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert b"hutch is up at" in process.stdout.readline()
        assert b"first API key" in process.stdout.readline()
        own.sandbox()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert own.daemon("hutch.node") == own.daemon("hutch.api") == 0


def test_up_that_cannot_start_says_why_and_leaves_nothing_running(own: Hutch) -> None:
    own.env["HUTCH_RUNSC"] = "/no/such/runsc"
    own("up", "-d", code=1)
    assert "runsc" in own.said and "doctor" in own.said
    assert own.daemon("hutch.node") == own.daemon("hutch.api") == 0
    del own.env["HUTCH_RUNSC"]


def test_a_paused_sandbox_that_no_database_knows_is_told_of_and_can_be_gone_on_from_or_removed(rough: Hutch) -> None:
    rough("up", "-d")
    box = rough.sandbox()
    rough("exec", box, "--", "sh", "-c", "echo precious > /home/user/it")
    rough("pause", box)
    rough("down")
    with sqlite3.connect(rough.root / "data" / "server" / "hutch.db") as database:  # as in an older copy of it
        database.execute("DELETE FROM sandboxes WHERE id = ?", (box,))
    database.close()
    rough("up", "-d")
    eventually(lambda: rough.json("orphan", "ls"))
    (found,) = rough.json("orphan", "ls")
    said = {check["name"]: check for check in rough.json("doctor")}["orphans"]
    assert said["status"] == "warn" and box in said["detail"] and found["snapshot"] in said["detail"]
    rough("orphan", "rm", "sbx_aaaaaaaaaaaaaaaaaaaaaa", code=1)
    assert rough("run", "--from", found["snapshot"], "--", "cat", "/home/user/it") == b"precious\n"
    rough("orphan", "rm", box)
    assert rough.json("orphan", "ls") == []
    assert "orphans" not in {check["name"] for check in rough.json("doctor")}


def test_demo_from_beginning_to_end() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run([*COMMAND, "demo"], env=kept, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "THE MODEL IS SCRIPTED" in done.stdout
    assert "⚙ Write" in done.stdout and "# Report" in done.stdout
    assert "LLM calls" in done.stderr and "tokens" in done.stderr
    assert "Nothing is left" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def examples() -> list[str]:
    """The Python examples of the guide."""
    page = Path(__file__).parent.parent.parent / "docs" / "guide" / "python.md"
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(examples())))
def test_examples_of_the_guide_run(hutch: Hutch, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", examples()[number]],
        env=hutch.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
