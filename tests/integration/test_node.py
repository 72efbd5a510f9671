"""The node daemon with real sandboxes: boot, limits, deadlines, and what is left when things die."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.leaks import assert_clean, look
from tests.node_host import NodeHost, boot_request

from hutch.model import new_id
from hutch.runtime.cgroups import detect

pytestmark = pytest.mark.root


def kernel_pid(node: NodeHost, sandbox: str) -> int:
    """The host process that is the sandbox's kernel."""
    return int((node.node_dir / "sandboxes" / sandbox / "runtime" / "pid").read_text())


def test_a_sandbox_boots_runs_a_command_and_goes_without_a_trace(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(env={"GREETING": "hello"})
    assert sandbox["state"] == "running" and sandbox["boot_ms"] > 0
    ran = shared_node.exec(sandbox, "echo $GREETING; whoami; pwd; hostname; cat /etc/hosts; echo oops >&2; exit 3")
    assert ran.exit_code == 3
    greeting, user, cwd, host, *hosts = ran.stdout.splitlines()
    assert (greeting, user, cwd) == ("hello", sandbox["user"], sandbox["workdir"])
    assert host == sandbox["id"].replace("_", "-")
    assert any("llm.hutch" in line for line in hosts)
    assert ran.stderr == "oops\n"
    final = shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")
    assert final.status == 200
    assert final.json()["state"] == "dead" and final.json()["death"] == "deleted"
    assert final.json()["cpu_seconds"] > 0 and final.json()["memory_peak_bytes"] > 0
    assert shared_node.call("GET", f"/sandboxes/{sandbox['id']}").status == 404
    assert [e["kind"] for e in shared_node.journal(sandbox["id"])] == ["sandbox_running", "sandbox_dead"]
    assert not (shared_node.node_dir / "sandboxes" / sandbox["id"]).exists()


def test_putting_twice_gives_the_same_sandbox_also_at_the_same_time(shared_node: NodeHost) -> None:
    id = new_id("sbx")
    path, body = f"/sandboxes/{id}", boot_request()
    answers = shared_node.at_once(*[lambda: shared_node.call("PUT", path, body)] * 4)
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["guest_token"] for answer in answers}) == 1
    again = shared_node.call("PUT", path, boot_request(template="ignored-now"))
    assert again.status == 200 and again.json()["guest_token"] == answers[0].json()["guest_token"]
    assert len(shared_node.journal(id, "sandbox_running")) == 1
    shared_node.call("DELETE", path)


def test_deleting_wins_over_a_boot_and_over_a_put_that_comes_late(shared_node: NodeHost) -> None:
    for delay in (0.0, 0.02, 0.1, 0.2, 0.35):
        path = f"/sandboxes/{new_id('sbx')}"
        with ThreadPoolExecutor() as pool:
            putting = pool.submit(shared_node.call, "PUT", path, boot_request())
            time.sleep(delay)
            deleted = shared_node.call("DELETE", path)
            put = putting.result()
        assert deleted.status in (200, 404)
        assert put.status in (201, 409), put.body
        assert shared_node.call("GET", path).status == 404
        late = shared_node.call("PUT", path, boot_request())
        assert late.status == 409 and late.json()["code"] == "sandbox_not_running"


def test_deleting_twice_at_once_and_again(shared_node: NodeHost) -> None:
    path = f"/sandboxes/{shared_node.boot()['id']}"
    statuses = [a.status for a in shared_node.at_once(*[lambda: shared_node.call("DELETE", path)] * 3)]
    assert 200 in statuses and set(statuses) <= {200, 404}
    assert shared_node.call("DELETE", path).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("sbx_" + "a" * 22, boot_request(template="no-such"), 400, "unknown_template"),
        ("sbx_" + "b" * 22, boot_request(template="../../etc"), 400, "unknown_template"),
        ("sbx_" + "c" * 22, boot_request(deadline=time.time() - 1), 400, "invalid_request"),
        ("sbx_" + "d" * 22, boot_request(resources={"memory_mib": -1}), 400, "invalid_request"),
        ("sbx_" + "e" * 22, boot_request(network={"mode": "all"}), 400, "invalid_request"),
        ("sbx_" + "x" * 22, boot_request(env={"A=B": "1"}), 400, "invalid_request"),
        ("sbx_" + "y" * 22, boot_request(env={"A": "nul \0"}), 400, "invalid_request"),
        ("sbx_" + "f" * 22, b"{", 400, "invalid_request"),
        ("sbx_" + "g" * 22, b"\xff" * 100, 400, "invalid_request"),
        ("sbx_short", boot_request(), 400, "invalid_request"),
        ("%2e%2e%2f%2e%2e%2fetc", boot_request(), 400, "invalid_request"),
    ],
)
def test_a_wrong_request_is_a_typed_error_and_leaves_nothing(
    shared_node: NodeHost, path: str, body: object, status: int, code: str
) -> None:
    answer = shared_node.call("PUT", f"/sandboxes/{path}", body)
    assert (answer.status, answer.json()["code"]) == (status, code), answer.body
    assert shared_node.call("GET", f"/sandboxes/{path}").status == 404
    assert path not in os.listdir(shared_node.node_dir / "sandboxes")


def test_wrong_calls_of_the_other_routes(shared_node: NodeHost) -> None:
    unknown = f"/sandboxes/{new_id('sbx')}"
    for method, path, body in [
        ("GET", unknown, None),
        ("DELETE", unknown, None),
        ("PUT", unknown + "/deadline", {"deadline": 1}),
        ("PUT", unknown + "/network", {"mode": "deny_all"}),
        ("PUT", unknown + "/llm", b"null"),
    ]:
        answer = shared_node.call(method, path, body)
        assert (answer.status, answer.json()["code"]) == (404, "sandbox_not_found"), (method, path)
    assert shared_node.call("GET", "/journal?after=x").json()["code"] == "invalid_request"
    assert shared_node.call("GET", "/journal?wait=nan").status == 400
    assert shared_node.call("GET", "/nothing").json()["code"] == "not_found"
    assert shared_node.call("POST", "/health").status == 405
    assert shared_node.call("POST", "/templates/no-such/build", {}).json()["code"] == "unknown_template"
    secret = {"provider": "anthropic", "key": ["sk-very-secret"], "placeholder": "p"}
    sandbox = shared_node.boot()
    answer = shared_node.call("PUT", f"/sandboxes/{sandbox['id']}/llm", secret)
    assert answer.status == 400 and b"sk-very-secret" not in answer.body
    assert "sk-very-secret" not in shared_node.log()
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_health_templates_and_a_build_that_has_nothing_to_do(shared_node: NodeHost) -> None:
    info = shared_node.call("GET", "/health").json()
    assert info["node"] == shared_node.id and info["runtime"] == "gvisor" and info["disk_free_bytes"] > 0
    templates = {t["name"]: t for t in shared_node.call("GET", "/templates").json()["templates"]}
    one = shared_node.call("GET", "/templates/standard")
    assert one.status == 200 and one.json() | {"warm": 0} == templates["standard"] | {"warm": 0}
    for name in ("unheard-of", "a%2Fb", "..", "%20", "%C3%A9" * 128):
        assert shared_node.call("GET", f"/templates/{name}").json()["code"] in ("unknown_template", "not_found")
    assert templates["standard"]["image"]
    built = shared_node.call("POST", "/templates/standard/build", {}, timeout=300)
    lines = [json.loads(line) for line in built.body.splitlines()]
    assert lines[-1]["type"] == "done" and lines[-1]["template"]["name"] == "standard"


def test_a_memory_hog_is_killed_and_reported_and_the_sandbox_lives_on(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(resources={"memory_mib": 512})
    ran = shared_node.exec(sandbox, "exec python3 -c 'x = \"a\" * 10**9; print(len(x))'")
    assert ran.exit_code == 137 and ran.stdout == ""
    assert ran.state["breach"]["limit"] == "memory" and "512 MiB" in ran.state["breach"]["message"]
    (entry,) = shared_node.journal(sandbox["id"], "limit")
    assert entry["data"]["action"] == "process_killed" and entry["data"]["process"] == "python3"
    assert entry["data"]["amount"] == 512 << 20 and entry["data"]["used"] > 512 << 20
    assert shared_node.exec(sandbox, "echo alive").stdout == "alive\n"
    known = shared_node.sandbox(sandbox["id"])
    assert known is not None and known["state"] == "running" and len(known["breaches"]) == 1
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_a_slow_hog_of_many_processes_is_cut_down_one_by_one(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(resources={"memory_mib": 384})
    hog = "python3 -c 'import time; x = []\nwhile True: x.append(bytearray(4 << 20)); time.sleep(0.05)' & "
    ran = shared_node.exec(sandbox, hog * 4 + "wait; echo all gone", timeout=90)
    assert ran.stdout == "all gone\n"
    assert 1 <= len(shared_node.journal(sandbox["id"], "limit")) <= 4
    assert shared_node.exec(sandbox, "echo alive").stdout == "alive\n"
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_a_boot_is_quick_and_the_cpu_limit_holds_after_it(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(resources={"cpus": 0.25})
    before = shared_node.sandbox(sandbox["id"])
    started = time.monotonic()
    shared_node.exec(sandbox, "python3 -c 'import time; end = time.time() + 4\nwhile time.time() < end: pass'")
    after = shared_node.sandbox(sandbox["id"])
    assert before is not None and after is not None
    used = (after["cpu_seconds"] - before["cpu_seconds"]) / (time.monotonic() - started)
    assert used < 0.35
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_a_fork_bomb_hits_the_process_limit_and_the_sandbox_can_be_used_and_deleted(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(resources={"pids": 64})
    bomb = shared_node.start_process(sandbox, "bomb() { bomb | bomb & }; bomb; sleep 3")
    time.sleep(2)
    assert shared_node.call("GET", "/health").status == 200
    known = shared_node.sandbox(sandbox["id"])
    assert known is not None
    assert shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}", timeout=20).status == 200
    assert bomb


def test_a_sandbox_that_died_for_want_of_host_tasks_says_so(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot()
    (limit,) = [
        file for group in detect(shared_node.id).directories(sandbox["id"]) if (file := group / "pids.max").exists()
    ]
    limit.write_text((limit.parent / "pids.current").read_text())
    with contextlib.suppress(http.client.HTTPException, OSError, AssertionError):
        shared_node.exec(sandbox, "for n in $(seq 100); do sleep 5 & done; wait")
    dead = shared_node.wait_dead(sandbox["id"])
    assert dead["death"].startswith("process limit")
    assert (dead["breaches"][-1]["limit"], dead["breaches"][-1]["action"]) == ("pids", "sandbox_killed")


def test_a_full_disk_of_the_host_ends_nothing_that_runs(standard_template: str) -> None:
    host = NodeHost()
    (host.root / "d").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200m", "tmpfs", str(host.root / "d")], check=True)
    try:
        host.start()
        sandbox = host.boot(resources={"disk_mib": 512})
        filler = host.root / "d" / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while file.write(bytes(1 << 20)):
                file.flush()
        refused = host.call("PUT", f"/sandboxes/{new_id('sbx')}", boot_request())
        assert (refused.status, refused.json()["code"]) == (507, "disk_full")
        ran = host.exec(sandbox, "echo alive; dd if=/dev/zero of=big bs=1M count=4 && echo wrote")
        assert ran.stdout.startswith("alive\n")
        filler.unlink()
        again = host.boot()
        for box in (sandbox, again):
            assert host.exec(box, "echo alive").stdout == "alive\n"
            assert host.call("DELETE", f"/sandboxes/{box['id']}").status == 200
            assert host.journal(box["id"], "sandbox_dead")
    finally:
        host.kill_if_running()
        host.command("--remove-all")
        left = look(host.id, host.root)
        subprocess.run(["umount", str(host.root / "d")], check=True)
        shutil.rmtree(host.root)
    assert not left.processes and not left.cgroups


def test_a_disk_filler_meets_a_full_disk_and_the_sandbox_lives_on(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(resources={"disk_mib": 128})
    ran = shared_node.exec(sandbox, "dd if=/dev/zero of=big bs=1M count=1000; ls -l big; rm big; echo alive")
    assert "No space left on device" in ran.stderr
    assert ran.stdout.endswith("alive\n")
    known = shared_node.sandbox(sandbox["id"])
    assert known is not None and known["state"] == "running" and known["disk_bytes"] < 192 << 20
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_a_deadline_ends_the_sandbox_and_can_be_moved(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(deadline=time.time() + 3)
    moved = time.time() + 5
    assert shared_node.call("PUT", f"/sandboxes/{sandbox['id']}/deadline", {"deadline": moved}).status == 200
    dead = shared_node.wait_dead(sandbox["id"])
    assert moved <= time.time() < moved + 3
    assert dead["state"] == "dead" and dead["death"] == "its lifetime is over"
    assert not look(shared_node.id, shared_node.node_dir / "sandboxes" / sandbox["id"]).processes
    with pytest.raises(ConnectionError, match="sandbox_not_found"):
        shared_node.port(sandbox["id"], 80)
    # The tombstone stays until the server has seen it; an id that has died never boots again.
    assert shared_node.call("PUT", f"/sandboxes/{sandbox['id']}", boot_request()).status == 409
    assert shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}").json()["death"] == "its lifetime is over"


def test_a_kernel_that_dies_is_journaled_and_cleaned_up(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot()
    connection = shared_node.port(sandbox["id"], 49983)
    os.kill(kernel_pid(shared_node, sandbox["id"]), signal.SIGKILL)
    dead = shared_node.wait_dead(sandbox["id"])
    assert dead["death"] == "its kernel ended unexpectedly"
    connection.settimeout(2)
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    connection.close()
    assert os.listdir(shared_node.node_dir / "sandboxes" / sandbox["id"]) == ["record.json"]
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_any_port_is_reached_with_big_transfers_half_close_and_abort(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot(resources={"memory_mib": 1024})
    with pytest.raises(ConnectionError, match="port_closed"):
        shared_node.port(sandbox["id"], 9000)
    serve = """
import socket
listener = socket.create_server(("0.0.0.0", 9000))
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    total = 0
    try:
        while data := connection.recv(1 << 20):
            total += len(data)
        for _ in range(total // (1 << 20)):
            connection.sendall(bytes(1 << 20))
        connection.sendall(str(total).encode())
    except OSError as error:
        print(error, flush=True)
    connection.close()
"""
    shared_node.start_process(sandbox, f"exec python3 -c '{serve.replace(chr(39), chr(34))}'")
    for _ in range(100):
        try:
            connection = shared_node.port(sandbox["id"], 9000)
            break
        except ConnectionError:
            time.sleep(0.05)
    block = os.urandom(1 << 20)
    for _ in range(200):
        connection.sendall(block)
    connection.shutdown(1)
    received, tail = 0, b""
    while data := connection.recv(1 << 20):
        received, tail = received + len(data), (tail + data)[-9:]
    connection.close()
    assert received == (200 << 20) + 9 and tail == str(200 << 20).encode()
    aborted = shared_node.port(sandbox["id"], 9000)
    aborted.sendall(block)
    aborted.close()
    assert shared_node.exec(sandbox, "echo alive").stdout == "alive\n"
    shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


SLOW_HOG = "python3 -c 'import time; x = []\nwhile True: x.append(bytes(range(256)) * 32768); time.sleep(0.03)'"
"""Takes 8 MiB at a time: whoever watches the sandbox's memory ends it before the kernel ends all of the sandbox."""


def test_a_killed_daemon_s_sandboxes_go_on_and_are_adopted(node: NodeHost) -> None:
    sandbox = node.boot(resources={"memory_mib": 384})
    doomed = node.boot(deadline=time.time() + 6)
    process = node.start_process(sandbox, "for n in $(seq 100); do echo $n; sleep 0.05; done", retain="all")
    node.exec(sandbox, SLOW_HOG)
    time.sleep(0.5)
    before = node.sandbox(sandbox["id"])
    node.kill()
    node.start()
    after = node.sandbox(sandbox["id"])
    assert before is not None and after is not None
    kept = ("guest_token", "address", "deadline", "started_at", "boot_ms", "breaches", "user", "workdir")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert after["cpu_seconds"] >= before["cpu_seconds"] > 0
    assert after["memory_peak_bytes"] >= 384 << 20  # written down with the breach; what rose after it may be forgotten
    assert node.follow(after, process).stdout.split() == [str(n) for n in range(1, 101)]
    assert node.wait_dead(doomed["id"])["death"] == "its lifetime is over"
    # Limits are watched again, and it can be deleted.
    assert node.exec(after, SLOW_HOG).exit_code == 137
    assert len(node.journal(sandbox["id"], "limit")) == 2
    assert len(node.journal(sandbox["id"], "sandbox_running")) == 1
    assert node.call("DELETE", f"/sandboxes/{sandbox['id']}").status == 200


CALLS = """
import collections, http.client, sys, time
seen, end = collections.Counter(), time.time() + float(sys.argv[1])
while time.time() < end:
    try:
        connection = http.client.HTTPConnection("llm.hutch", timeout=5)
        connection.request("GET", "/anthropic/v1/models", headers={"x-api-key": "placeholder"})
        seen[connection.getresponse().status] += 1
    except OSError:
        seen["broken"] += 1
    finally:
        connection.close()
print(*seen)
"""


def test_while_a_new_daemon_takes_over_no_model_call_is_forbidden(standard_template: str) -> None:
    """An agent that is told 403 gives up at once; one that meets a closed port tries again."""
    host = NodeHost(anthropic_base_url="http://127.0.0.1:9")  # nobody is there: 502 for all that passes the checks
    try:
        host.start()
        grant = {"provider": "anthropic", "key": "sk-none", "placeholder": "placeholder"}
        sandboxes = [host.boot(llm=grant) for _ in range(3)]
        calling = [(box, host.start_process(box, f"python3 -c '{CALLS}' 12")) for box in sandboxes]
        for _ in range(3):
            time.sleep(0.5)
            host.kill()
            host.start()
        for box, process in calling:
            box = host.sandbox(box["id"]) or box
            assert set(host.follow(box, process).stdout.split()) <= {"502", "broken"}
    finally:
        host.close()


def test_a_sandbox_that_died_while_the_daemon_was_down_is_journaled(node: NodeHost) -> None:
    sandbox = node.boot()
    node.kill()
    os.kill(kernel_pid(node, sandbox["id"]), signal.SIGKILL)
    node.start()
    assert node.wait_dead(sandbox["id"])["death"] == "its kernel ended while the node was down"


def test_a_boot_cut_by_kill_9_is_undone_and_journaled(node: NodeHost) -> None:
    for delay in (0.02, 0.06, 0.12, 0.2, 0.3):
        ids = [new_id("sbx") for _ in range(3)]
        with ThreadPoolExecutor() as pool:
            puts = [pool.submit(node.call, "PUT", f"/sandboxes/{id}", boot_request()) for id in ids]
            time.sleep(delay)
            node.kill()
            for put in puts:
                put.exception()
        node.start()
        for id in ids:
            found = node.sandbox(id)
            if found is not None and found["state"] == "running":
                assert node.exec(found, "echo alive").stdout == "alive\n"
            elif found is not None:
                assert found["death"] == "boot was interrupted"
                assert node.journal(id, "sandbox_dead")
            node.call("DELETE", f"/sandboxes/{id}")
        left = look(node.id, node.node_dir / "sandboxes")
        assert not left.processes and not [path for path in left.cgroups if "sbx_" in path]


def test_a_delete_cut_by_kill_9_is_finished(node: NodeHost) -> None:
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1):
        sandbox = node.boot()
        with ThreadPoolExecutor() as pool:
            deleting = pool.submit(node.call, "DELETE", f"/sandboxes/{sandbox['id']}")
            time.sleep(delay)
            node.kill()
            deleting.exception()
        node.start()
        found = node.sandbox(sandbox["id"])
        if found is not None and found["state"] == "dead":
            assert found["death"] in ("deleted", "its kernel ended while the node was down")
        node.call("DELETE", f"/sandboxes/{sandbox['id']}")
        assert len(node.journal(sandbox["id"], "sandbox_dead")) == 1


def test_leftovers_that_no_record_owns_are_swept_at_the_start(node: NodeHost) -> None:
    running, orphan = node.boot(), node.boot()
    node.kill()
    record = node.node_dir / "sandboxes" / orphan["id"] / "record.json"
    record.write_text("{torn")
    (node.node_dir / "sandboxes" / "stray").mkdir()
    (node.root / "r" / "grants" / f"{new_id('sbx')}.json").write_text("{}")
    cgroup = Path("/sys/fs/cgroup")
    cgroup = (cgroup / "memory" if (cgroup / "memory").is_dir() else cgroup) / f"hutch-{node.id}" / new_id("sbx")
    cgroup.mkdir()
    subprocess.run(["ip", "netns", "add", f"hutch-{node.id}-900"], check=True)
    node.start()
    assert not cgroup.exists()
    assert not Path(f"/run/netns/hutch-{node.id}-900").exists()
    assert os.listdir(node.node_dir / "sandboxes") == [running["id"]]
    assert os.listdir(node.root / "r" / "grants") == []
    assert node.sandbox(orphan["id"]) is None
    assert node.exec(running, "echo alive").stdout == "alive\n"


def test_a_term_signal_leaves_the_sandboxes_running_and_remove_all_ends_them(node: NodeHost) -> None:
    sandbox = node.boot()
    assert node.stop() == 0
    assert os.path.exists(f"/proc/{kernel_pid(node, sandbox['id'])}")
    removed = node.command("--remove-all")
    assert removed.returncode == 0, removed.stderr
    node.start()
    dead = node.sandbox(sandbox["id"])
    assert dead is not None and dead["death"] == "hutch was stopped"
    second = node.boot()
    assert node.stop_and_remove()
    assert_clean(node.id, node.root)
    node.start()
    dead = node.sandbox(second["id"])
    assert dead is not None and dead["death"] == "hutch was stopped"


def test_a_second_daemon_on_the_same_directory_refuses(shared_node: NodeHost) -> None:
    refused = shared_node.command()
    assert refused.returncode == 1
    assert "another node daemon already runs" in refused.stderr
    assert shared_node.call("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("runsc", "/nonexistent/runsc", "/nonexistent/runsc"),
        ("run_dir", "/tmp/" + "x" * 120, "too long"),
        ("data_dir", "/proc/nothing", "cannot write"),
    ],
)
def test_what_keeps_the_daemon_from_starting_is_said_in_one_line(setting: str, value: str, message: str) -> None:
    host = NodeHost(**{setting: value})
    refused = host.command()
    assert refused.returncode == 1
    assert message in refused.stderr and "Traceback" not in refused.stderr
    known = (host.node_dir / "id").exists()
    assert_clean(host.id if known else "none", host.root, Path(value))
    for directory in (host.root, Path("/tmp/" + "x" * 120)):
        shutil.rmtree(directory, ignore_errors=True)
