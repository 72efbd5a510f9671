"""Processes of a real guest: how they start, talk, end, and die."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.guest.client import EXIT, PTY, STARTED, STDERR, STDOUT, TOKEN, Guest, alive, eventually

root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def test_output_exit_code_and_state(guest: Guest) -> None:
    out, err, state = guest.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (out, err) == (b"out\n", b"err\n")
    assert (state["running"], state["exit_code"], state["signal"], state["timed_out"]) == (False, 3, None, False)
    assert state["started_at"] <= state["ended_at"] <= time.time()
    assert guest.state(state["id"])["exit_code"] == 3


def test_death_by_signal(guest: Guest) -> None:
    _, _, state = guest.run("sh", "-c", "kill -SEGV $$")
    assert (state["exit_code"], state["signal"]) == (128 + 11, "SIGSEGV")


def test_a_shell_command_runs_in_a_login_shell(guest: Guest) -> None:
    out, _, _ = guest.run(shell="echo $0; shopt login_shell")
    assert b"on" in out


def test_environment_is_only_what_it_should_be(guest: Guest) -> None:
    out, _, state = guest.run("env", env={"A": "1", "HOME": "/mine"})
    env = dict(line.split("=", 1) for line in out.decode().splitlines())
    assert env.pop("PATH").startswith("/usr/local/sbin:")
    assert env.pop("HUTCH_EXEC_ID") == state["id"]
    assert env.pop("USER") == env.pop("LOGNAME")
    assert env == {"A": "1", "HOME": "/mine", "TEMPLATE": "yes"}


def test_signals_are_as_a_program_expects_them(guest: Guest) -> None:
    out, _, _ = guest.run("grep", "^Sig", "/proc/self/status")
    masks = dict(line.split(":\t") for line in out.decode().splitlines())
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) & 0x7FFFFFFF == 0  # 32 and 33 are the C library's own


def test_only_the_standard_files_are_open(guest: Guest) -> None:
    out, _, _ = guest.run("sh", "-c", "ls /proc/$$/fd; echo; ps -o pid= -o sid= -p $$")
    files, _, ids = out.decode().partition("\n\n")
    assert files.split() == ["0", "1", "2"]
    assert len(set(ids.split())) == 1


@root
def test_another_user(guest: Guest, tmp_path: Path) -> None:
    out, _, _ = guest.run(
        "sh", "-c", "id -u; id -g; id -G; grep -E '^(Uid|Gid|CapEff)' /proc/self/status", user="nobody"
    )
    lines = out.decode().split("\n")
    assert lines[:3] == ["65534"] * 3
    assert lines[3].split() == ["Uid:"] + ["65534"] * 4
    assert lines[5].split() == ["CapEff:", "0" * 16]
    _, _, state = guest.run("sh", "-c", "cat /etc/shadow; kill -9 $PPID", user="nobody")
    assert state["exit_code"] != 0
    tmp_path.chmod(0o700)
    reply = guest.call("POST", "/hutch/processes", {"argv": ["true"], "user": "nobody", "cwd": str(tmp_path)})
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    assert guest.run("id", "-u")[0] == b"0\n"


@root
def test_a_user_who_kills_all_its_own_does_not_meet_the_guest(guest: Guest) -> None:
    killer = "end=$(($(date +%s)+2)); while [ $(date +%s) -lt $end ]; do pkill -9 -u nobody -f sleep; done"
    killing = guest.start("sh", "-c", killer, user="nobody")
    for _ in range(40):
        guest.start("sleep", "9", user="nobody")
    assert guest.call("DELETE", f"/hutch/processes/{killing['id']}").status == 204
    assert guest.call("GET", "/hutch/ready").status == 204
    for state in guest.call("GET", "/hutch/processes").json["processes"]:
        if state["running"]:
            guest.call("DELETE", f"/hutch/processes/{state['id']}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "argv"),
        ({"argv": ["x"], "shell": "y"}, "argv"),
        ({"argv": []}, "argv"),
        ({"argv": ["a\0b"]}, "argv"),
        ({"argv": [1]}, "argv"),
        ({"argv": ["/no/such/program"]}, "argv"),
        ({"argv": ["echo", "\ud800"]}, "argv"),
        ({"argv": ["echo", "x" * 200_000]}, "argv"),
        ({"argv": ["echo"], "pty": {"cols": 9, "rows": 9}, "env": {"A": "\ud800"}}, "argv"),
        ({"argv": ["no-such-program"]}, "argv"),
        ({"argv": ["/etc/passwd"]}, "argv"),
        ({"argv": ["true"], "cwd": "/no/such"}, "cwd"),
        ({"argv": ["true"], "env": {"A=B": "x"}}, "env"),
        ({"argv": ["true"], "env": {"A": 1}}, "env"),
        ({"argv": ["true"], "timeout": -1}, "timeout"),
        ({"argv": ["true"], "timeout": True}, "timeout"),
        ({"argv": ["true"], "id": "../x"}, "id"),
        ({"argv": ["true"], "id": "x" * 65}, "id"),
        ({"argv": ["true"], "stdin": {"data": "%"}}, "stdin"),
        ({"argv": ["true"], "pty": {"cols": 0, "rows": 1}}, "pty"),
        ({"argv": ["true"], "retain": "some"}, "retain"),
        ({"argv": ["true"], "max_spool": -5}, "max_spool"),
    ],
)
def test_nonsense_is_refused(guest: Guest, body: dict[str, object], field: str) -> None:
    before = guest.open_files()
    reply = guest.call("POST", "/hutch/processes", body)
    assert reply.status == 400
    assert (reply.json["code"], reply.json["field"]) == ("invalid_request", field)
    eventually(lambda: guest.open_files() <= before)


def test_unknown_user_and_unknown_process(guest: Guest) -> None:
    assert guest.call("POST", "/hutch/processes", {"argv": ["true"], "user": "nemo"}).status == 400
    for method, verb in (("GET", ""), ("GET", "/output"), ("POST", "/stdin"), ("POST", "/ack"), ("DELETE", "")):
        reply = guest.call(method, f"/hutch/processes/nemo{verb}")
        assert (reply.status, reply.json["code"]) == (404, "exec_not_found")


def test_the_same_id_is_the_same_process(guest: Guest, tmp_path: Path) -> None:
    body = {"id": "once", "argv": ["sh", "-c", f"echo x >> {tmp_path}/count; sleep 0.2"]}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: guest.call("POST", "/hutch/processes", body), range(8)))
    assert {reply.json["pid"] for reply in replies} == {replies[0].json["pid"]}
    list(guest.frames("once"))
    assert (tmp_path / "count").read_text() == "x\n"
    assert guest.call("POST", "/hutch/processes", body).status == 200
    assert guest.call("DELETE", "/hutch/processes/once").status == 204
    assert guest.call("POST", "/hutch/processes", body).status == 201
    list(guest.frames("once"))
    assert (tmp_path / "count").read_text() == "x\nx\n"


def test_one_call_starts_and_follows(guest: Guest) -> None:
    body = {"id": "both", "shell": "echo one; sleep 0.2; echo two"}
    frames = guest.start_and_follow(body)
    kind, offset, state = next(frames)
    assert (kind, offset, json.loads(state)["running"]) == (STARTED, 0, True)
    rest = list(frames)
    assert rest == list(guest.frames("both"))  # the first frame takes no place in the stream
    assert [data for kind, _, data in rest if kind == STDOUT] == [b"one\n", b"two\n"]
    again = list(guest.start_and_follow(body, status=200))
    assert json.loads(again[0][2])["exit_code"] == 0 and again[1:] == rest
    refused = guest.call("POST", "/hutch/processes?follow=1", {"argv": ["/no/such/program"]})
    assert refused.status == 400 and refused.json["code"] == "invalid_request"


def test_a_client_who_vanishes_from_its_own_call_leaves_the_process(guest: Guest, tmp_path: Path) -> None:
    frames = guest.start_and_follow({"id": "left", "shell": f"sleep 0.3; echo done > {tmp_path}/done"})
    next(frames)
    frames.close()
    eventually(lambda: guest.state("left")["exit_code"] == 0)
    assert (tmp_path / "done").read_text() == "done\n"


def test_a_long_command_is_not_told_whole(guest: Guest) -> None:
    assert len(guest.start("echo", "x" * 10_000)["command"]) == 1000


# input


def test_input_kinds(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    assert guest.run("cat")[0] == b""
    assert guest.run("cat", stdin={"file": str(tmp_path / "in")})[0] == b"from a file"
    data = os.urandom(3_000_000)
    out, _, _ = guest.run("cat", stdin={"data": base64.b64encode(data).decode()})
    assert out == data
    reply = guest.call("POST", "/hutch/processes", {"argv": ["cat"], "stdin": {"file": "/no/such"}})
    assert (reply.status, reply.json["code"]) == (404, "file_not_found")


def test_streamed_input(guest: Guest) -> None:
    id = guest.start("cat", stdin="pipe")["id"]
    data = os.urandom(2_000_000)
    frames = guest.frames(id)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(list, frames)
        assert guest.call("POST", f"/hutch/processes/{id}/stdin", data).status == 204
        assert guest.call("POST", f"/hutch/processes/{id}/stdin", b"end", close=1).status == 204
        assert b"".join(data for kind, _, data in reading.result() if kind == STDOUT) == data + b"end"


def test_input_for_a_dead_process_is_a_conflict(guest: Guest) -> None:
    id = guest.start("true", stdin="pipe")["id"]
    list(guest.frames(id))
    reply = guest.call("POST", f"/hutch/processes/{id}/stdin", b"x")
    assert (reply.status, reply.json["code"]) == (409, "conflict")


def test_a_writer_who_waits_is_told_when_the_process_dies(guest: Guest) -> None:
    id = guest.start("sleep", "60", stdin="pipe")["id"]
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(guest.call, "POST", f"/hutch/processes/{id}/stdin", b"x" * 500_000)
        time.sleep(0.2)
        assert not writing.done()
        guest.call("POST", f"/hutch/processes/{id}/signal", {"signal": "KILL"})
        assert writing.result().status == 409


# the stream


def test_replay_from_any_frame(guest: Guest) -> None:
    id = guest.start("sh", "-c", "for i in $(seq 50); do echo $i; echo $i >&2; done")["id"]
    frames = list(guest.frames(id))
    for index in {0, len(frames) // 2, len(frames) - 1}:
        assert list(guest.frames(id, frames[index][1])) == frames[index + 1 :]
    assert list(guest.frames(id, 0, follow=0)) == frames
    assert guest.state(id)["output_end"] == frames[-1][1]
    assert guest.call("GET", f"/hutch/processes/{id}/output", **{"from": frames[-1][1] + 1}).status == 400
    assert guest.call("GET", f"/hutch/processes/{id}/output", **{"from": "-1"}).status == 400


def test_without_follow_it_ends_where_the_output_ends(guest: Guest) -> None:
    id = guest.start("sh", "-c", "echo now; sleep 30")["id"]
    eventually(lambda: guest.state(id)["output_end"])
    assert [data for _, _, data in guest.frames(id, 0, follow=0)] == [b"now\n"]
    guest.call("DELETE", f"/hutch/processes/{id}")


def test_several_followers_see_the_same(guest: Guest) -> None:
    id = guest.start("sh", "-c", "for i in $(seq 200); do echo $i; done; sleep 0.2; echo end")["id"]
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(lambda _: list(guest.frames(id)), range(5)))
    assert all(frames == seen[0] for frames in seen)


def test_a_quarter_of_a_gigabyte_in_one_line_keeps_memory_small(guest: Guest) -> None:
    before = guest.memory()
    size = 256 << 20
    id = guest.start("head", "-c", str(size), "/dev/zero", max_spool=8 << 20)["id"]
    received = peak = 0
    for kind, _, data in guest.frames(id):
        received += len(data) if kind == STDOUT else 0
        peak = max(peak, guest.memory()) if received % (64 << 20) < 70_000 else peak
    assert received == size
    assert peak - before < 32 << 20


def test_a_follower_who_stops_reading_stops_the_process_and_no_more(guest: Guest) -> None:
    before = guest.memory()
    id = guest.start("sh", "-c", "yes | head -c 200000000; echo done >&2", max_spool=1 << 20)["id"]
    follower = guest.frames(id)
    next(follower)
    eventually(lambda: guest.state(id)["output_end"] > 1 << 20)
    time.sleep(0.5)
    first = guest.state(id)
    time.sleep(0.3)
    assert guest.state(id)["output_end"] == first["output_end"] < 64 << 20
    assert first["running"]
    assert guest.memory() - before < 32 << 20
    follower.close()  # the client vanishes: the process goes on by itself
    eventually(lambda: not guest.state(id)["running"])


def test_unacknowledged_output_is_never_dropped(guest: Guest) -> None:
    id = guest.start("sh", "-c", "seq 1 300000", retain="all", max_spool=300_000)["id"]
    eventually(lambda: guest.state(id)["output_end"] > 300_000)
    time.sleep(0.2)
    assert guest.state(id)["running"]
    out, position = bytearray(), 0
    while True:
        frames = list(guest.frames(id, position, follow=0))
        assert {kind for kind, _, _ in frames} <= {STDOUT, EXIT}
        out += b"".join(data for kind, _, data in frames if kind == STDOUT)
        position = frames[-1][1] if frames else position
        assert guest.call("POST", f"/hutch/processes/{id}/ack", {"offset": position}).status == 204
        if frames and frames[-1][0] == EXIT:
            break
    assert out.split() == [b"%d" % number for number in range(1, 300_001)]
    assert guest.call("POST", f"/hutch/processes/{id}/ack", {"offset": position + 1}).status == 400


def test_a_daemon_that_holds_the_output_does_not_hold_the_end(guest: Guest, tmp_path: Path) -> None:
    started = time.monotonic()
    script = f"(sleep 2; echo late; echo alive > {tmp_path}/alive) & echo now"
    out, _, state = guest.run("sh", "-c", script)
    assert time.monotonic() - started < 1.9
    assert (out, state["exit_code"]) == (b"now\n", 0)
    eventually(lambda: (tmp_path / "alive").exists())  # its late output did not kill it


# terminals


def test_terminal(guest: Guest) -> None:
    state = guest.start("bash", "--norc", "-i", pty={"cols": 90, "rows": 20}, env={"PS1": "$ "})
    id, frames = state["id"], guest.frames(state["id"])
    output = b""

    def until(text: bytes) -> None:
        nonlocal output
        while text not in output:
            kind, _, data = next(frames)
            assert kind == PTY
            output += data

    def type_in(text: bytes) -> None:
        assert guest.call("POST", f"/hutch/processes/{id}/stdin", text).status == 204

    type_in(b"stty size; tty\n")
    until(b"20 90")
    assert guest.call("POST", f"/hutch/processes/{id}/resize", {"cols": 50, "rows": 10}).status == 204
    type_in(b"stty size\n")
    until(b"10 50")
    type_in(b"sleep 100\n")
    until(b"sleep 100\r\n")
    time.sleep(0.2)
    type_in(b"\x03")
    until(b"^C")
    type_in(b"echo $?\n")
    until(b"130")
    assert guest.call("POST", f"/hutch/processes/{id}/resize", {"cols": 0, "rows": 10}).status == 400
    assert guest.call("POST", f"/hutch/processes/{id}/stdin", close=1).status == 204  # types end-of-file
    rest = list(frames)
    assert rest[-1][0] == EXIT
    assert guest.call("POST", f"/hutch/processes/{id}/resize", {"cols": 9, "rows": 9}).status == 409


@root
def test_terminal_of_another_user(guest: Guest) -> None:
    state = guest.start(
        "sh", "-c", "id -u; stat -c %U $(tty); echo x > /dev/tty", user="nobody", pty={"cols": 9, "rows": 9}
    )
    frames = list(guest.frames(state["id"]))
    assert b"".join(data for kind, _, data in frames if kind == PTY).split() == [b"65534", b"nobody", b"x"]


def test_terminal_with_a_missing_program(guest: Guest) -> None:
    before = guest.open_files()
    reply = guest.call("POST", "/hutch/processes", {"argv": ["/no/such"], "pty": {"cols": 9, "rows": 9}})
    assert (reply.status, reply.json["field"]) == (400, "argv")
    eventually(lambda: guest.open_files() <= before)


# ends


def test_timeout_kills_the_whole_tree(guest: Guest, tmp_path: Path) -> None:
    script = f"""
        sleep 300 & echo $! >> {tmp_path}/pids
        setsid sleep 301 & echo $! >> {tmp_path}/pids
        (setsid sh -c 'echo $$ >> {tmp_path}/pids; trap "" TERM; while :; do sleep 1; done' &)
        trap '' TERM HUP INT; while :; do sleep 1; done
    """
    started = time.monotonic()
    _, _, state = guest.run("sh", "-c", script, timeout=0.7)
    assert time.monotonic() - started < 8
    assert (state["timed_out"], state["exit_code"], state["signal"]) == (True, 137, "SIGKILL")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    eventually(lambda: not any(map(alive, pids)), 3)


def test_a_daemon_that_clears_its_environment_is_still_found(guest: Guest, tmp_path: Path) -> None:
    inner = f"echo $$ > {tmp_path}/pid; exec env -i sleep 300"
    id = guest.start("sh", "-c", f"env -i setsid sh -c '{inner}' & sleep 300")["id"]
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert guest.call("DELETE", f"/hutch/processes/{id}").status == 204
    eventually(lambda: not alive(int((tmp_path / "pid").read_text())), 3)


def test_an_escaped_daemon_dies_with_its_exec_even_after_the_end(guest: Guest, tmp_path: Path) -> None:
    out, _, state = guest.run("sh", "-c", "setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $!")
    assert alive(int(out))
    assert guest.call("DELETE", f"/hutch/processes/{state['id']}").status == 204
    eventually(lambda: not alive(int(out)), 3)


def test_a_fork_bomb_dies(guest: Guest) -> None:
    bomb = "import os, time\nwhile True:\n try:\n  os.fork(); os.setsid()\n except OSError: time.sleep(0.01)"
    other = [] if os.getuid() else ["setpriv", "--reuid", "59999", "--clear-groups"]
    id = guest.start(*other, "prlimit", "--nproc=300", "python3", "-c", bomb, "hutch-test-bomb")["id"]

    def breed() -> list[str]:
        return subprocess.run(["pgrep", "-f", "hutch-test-bomb"], capture_output=True, text=True).stdout.split()

    eventually(lambda: len(breed()) > 100)
    started = time.monotonic()
    assert guest.call("DELETE", f"/hutch/processes/{id}").status == 204
    assert time.monotonic() - started < 20
    eventually(lambda: not breed(), 3)


def test_signals_to_one_and_to_all(guest: Guest) -> None:
    inner = "trap 'echo two; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    script = f'trap "echo one; exit 0" USR1; sh -c "{inner}" & wait; wait'
    id = guest.start("sh", "-c", script)["id"]
    eventually(lambda: guest.state(id)["output_end"])
    assert guest.call("POST", f"/hutch/processes/{id}/signal", {"signal": "SIGUSR1"}).status == 204
    out = b"".join(data for kind, _, data in guest.frames(id) if kind == STDOUT)
    assert sorted(out.split()) == [b"one", b"ready", b"two"]
    assert guest.call("POST", f"/hutch/processes/{id}/signal", {"signal": "SIGNOPE"}).status == 400
    assert guest.call("POST", f"/hutch/processes/{id}/signal", {"signal": 15}).status == 204  # dead already: no matter


def test_orphans_are_reaped(guest: Guest) -> None:
    guest.run("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done")

    def zombies() -> int:
        states = [Path(path).read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
        fields = [state.rpartition(")")[2].split() for state in states]
        return sum(field[0] == "Z" and int(field[1]) == guest.process.pid for field in fields)

    time.sleep(0.2)
    eventually(lambda: zombies() == 0)


def test_a_thousand_short_processes_leave_nothing(guest: Guest) -> None:
    guest.run("true")
    files, memory = guest.open_files(), guest.memory()

    def some(part: int) -> None:
        connection = guest.connect()
        for number in range(250):
            body = {"id": f"short-{part}-{number}", "argv": ["/bin/echo", "x" * 5000 if number % 10 == 0 else "x"]}
            connection.request("POST", "/hutch/processes", json.dumps(body), {"X-Access-Token": TOKEN})
            response = connection.getresponse()
            assert response.status == 201
            response.read()
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, range(4)))
    states = guest.call("GET", "/hutch/processes").json["processes"]
    assert sum(state["id"].startswith("short-") for state in states) > 900
    eventually(lambda: not any(s["running"] for s in guest.call("GET", "/hutch/processes").json["processes"]))
    eventually(lambda: guest.open_files() <= files + 2)
    assert guest.memory() - memory < 24 << 20
    for state in states:
        if state["output_end"] > 4096:
            assert guest.call("DELETE", f"/hutch/processes/{state['id']}").status == 204
    assert [name for name in os.listdir(guest.spool) if name != "pids"] == []


def test_output_of_both_streams_is_kept_apart(guest: Guest) -> None:
    frames = list(guest.frames(guest.start("sh", "-c", "echo a; sleep 0.1; echo b >&2; sleep 0.1; echo c")["id"]))
    assert [(kind, data) for kind, _, data in frames[:-1]] == [(STDOUT, b"a\n"), (STDERR, b"b\n"), (STDOUT, b"c\n")]
    assert all(left[1] < right[1] for left, right in itertools.pairwise(frames))
    assert signal.SIGKILL == 9
