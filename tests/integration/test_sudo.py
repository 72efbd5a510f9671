"""`sudo` in a sandbox: gVisor has no setuid, so the guest starts the command for the caller."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.node_host import NodeHost, Ran

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def sandbox(shared_node: NodeHost) -> Iterator[dict[str, Any]]:
    made = shared_node.boot()
    yield made
    shared_node.call("DELETE", f"/sandboxes/{made['id']}")


@pytest.fixture
def run(shared_node: NodeHost, sandbox: dict[str, Any]) -> Any:
    def run(shell: str, **options: Any) -> Ran:
        return shared_node.exec(sandbox, shell, **options)

    return run


def test_the_user_becomes_root_without_a_password(run: Any) -> None:
    ran = run("whoami; sudo whoami; sudo -n id -u; /usr/bin/sudo -- id -un")
    assert ran.stdout.split() == ["user", "root", "0", "root"]


def test_standard_files_directory_and_exit_code_are_the_commands(run: Any) -> None:
    ran = run("cd /usr/share && echo in | sudo sh -c 'cat; pwd; echo err >&2; exit 7'; echo $?")
    assert ran.stdout.splitlines() == ["in", "/usr/share", "7"]
    assert ran.stderr == "err\n"


def test_a_killed_command_is_told_as_by_a_shell(run: Any) -> None:
    assert run("sudo sh -c 'kill -9 $$'; echo $?").stdout == "137\n"


def test_the_environment_is_roots_unless_it_is_asked_for(run: Any) -> None:
    ran = run("export MINE=1; sudo sh -c 'echo $HOME ${MINE-no} $SUDO_USER'; sudo -E sh -c 'echo $MINE'; sudo A=b env")
    assert ran.stdout.splitlines()[:2] == ["/root no user", "1"]
    assert "A=b" in ran.stdout.splitlines()
    assert run("sudo --preserve-env=MINE sh -c 'echo $MINE'", env={"MINE": "2"}).stdout == "2\n"


def test_another_user_a_login_shell_and_a_shell(run: Any) -> None:
    assert run("sudo -u nobody whoami; sudo -unobody id -un").stdout.split() == ["nobody", "nobody"]
    assert run("sudo -i pwd; sudo -s echo '$USER' 'a  b'; sudo -iu user pwd").stdout.split() == [
        "/root",
        "root",
        "a",
        "b",
        "/home/user",
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sudo", "no command given"),
        ("sudo -u nosuchuser id", "unknown user nosuchuser"),
        ("sudo nosuchcommand", "command not found"),
        ("sudo --nosuchoption id", "unknown option"),
        ("sudo -D /nowhere id", "cwd '/nowhere' does not exist"),
    ],
)
def test_what_cannot_be_run_is_told(run: Any, command: str, said: str) -> None:
    ran = run(command)
    assert ran.exit_code == 1
    assert said in ran.stderr


def test_validation_and_listing_are_quiet_successes(run: Any) -> None:
    assert run("sudo -v && sudo -n true && sudo -k && sudo -l | grep NOPASSWD").exit_code == 0


def test_only_the_templates_user_and_root_may(run: Any) -> None:
    ran = run("sudo sudo id -u; sudo -u nobody sudo id; echo $?")
    assert ran.stdout.splitlines() == ["0", "1"]
    assert "nobody may not run commands as another user" in ran.stderr


def test_a_signal_reaches_the_command(run: Any) -> None:
    trap = 'trap "echo caught; exit 3" TERM; touch /tmp/trapped; while :; do sleep 0.05; done'
    ready = "until [ -e /tmp/trapped ]; do sleep 0.05; done"  # a signal before that would end it
    ran = run(f"sudo sh -c '{trap}' & {ready}; kill $!; wait $!; echo $?")
    assert ran.stdout.splitlines() == ["caught", "3"]


def test_a_command_dies_with_its_caller(run: Any) -> None:
    run("sudo sleep 4713 & sleep 0.5; kill -9 $!; true")
    assert gone(run, "sleep 4713")


def test_a_timeout_takes_what_runs_as_root_too(run: Any, shared_node: NodeHost, sandbox: dict[str, Any]) -> None:
    process = shared_node.start_process(sandbox, "sudo env -i /bin/sh -c 'sleep 4714; true'", timeout=1)
    ran = shared_node.follow(sandbox, process)
    assert ran.state["timed_out"]
    assert gone(run, "sleep 4714")


def test_packages_can_be_configured(run: Any) -> None:
    ran = run(
        "sudo install -d -m 755 /opt/mine && sudo chown user /opt/mine && touch /opt/mine/x && stat -c %U /opt/mine/x"
    )
    assert ran.stdout == "user\n"


def test_nonsense_on_the_socket_does_no_harm(run: Any) -> None:
    script = """
import socket
for data in (b"", b"\\0", b"\\xff" * 8, b"\\0\\0\\0\\2{}", b"\\0\\0\\0\\4null", b"\\0\\0\\0\\3{{{"):
    s = socket.socket(socket.AF_UNIX); s.connect("\\0hutch-sudo"); s.sendall(data); s.shutdown(1)
    print(s.recv(1000).decode()[:9]); s.close()
"""
    ran = run(f"python3 -c '{script}'; sudo id -u")
    assert ran.stdout.split() == ['{"error":'] * 6 + ["0"], ran.stderr


def test_root_can_take_the_right_away(shared_node: NodeHost) -> None:
    sandbox = shared_node.boot()
    try:
        ran = shared_node.exec(sandbox, "sudo rm /etc/sudoers.d/hutch; sudo id")
        assert ran.exit_code == 1
        assert "user may not run commands" in ran.stderr
    finally:
        shared_node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def gone(run: Any, command: str) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if run(f"pgrep -f '^{command}'").exit_code == 1:
            return True
    return False
