"""The life of a sandbox, as E2B's users know it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxQuery,
    SandboxState,
    Template,
    TimeoutException,
)

from conftest import VERSION

Create = Callable[..., Sandbox]
NEWER = pytest.mark.skipif(VERSION < (2, 52), reason="an option of newer clients")
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def all_of(paginator: Any) -> list[Any]:
    found = []
    while paginator.has_next:
        found += paginator.next_items()
    return found


def test_info_of_a_running_sandbox(sandbox: Sandbox) -> None:
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id and info.template_id == "base"
    assert info.state == SandboxState.RUNNING and info.metadata == {"of": "shared"}
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    left = info.end_at - datetime.datetime.now(datetime.UTC)
    assert 60 < left.total_seconds() <= 600
    assert info.started_at < info.end_at


def test_environment(sandbox: Sandbox) -> None:
    told = sandbox.commands.run("echo $GREETING $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID $USER $HOME").stdout
    assert told.split() == ["hello", "true", sandbox.sandbox_id, "base", "user", "/home/user"]


def test_what_the_base_template_has(sandbox: Sandbox) -> None:
    sandbox.commands.run("for tool in bash python python3 git curl sudo; do command -v $tool || exit 1; done")
    assert sandbox.commands.run("sudo -n id -u").stdout == "0\n"
    assert sandbox.commands.run("id -un; stat -c %U ~", user="user").stdout == "user\nuser\n"
    assert sandbox.commands.run("whoami", user="root").stdout == "root\n"
    assert sandbox.commands.run("printf é | wc -m; localedef --list-archive").stdout.split() == ["1", "C.utf8"]


def test_set_timeout_and_connect_never_shortens(own: Create) -> None:
    made = own(timeout=100)
    made.set_timeout(30)
    until = made.get_info().end_at
    Sandbox.connect(made.sandbox_id, timeout=5)
    assert made.get_info().end_at == until
    Sandbox.connect(made.sandbox_id, timeout=200)
    assert made.get_info().end_at > until


def test_a_timeout_ends_it(own: Create, eventually: Callable[..., None]) -> None:
    made = own(timeout=300)
    made.set_timeout(1)
    eventually(lambda: not made.is_running(), 8)
    with pytest.raises(TimeoutException):
        made.commands.run("true")
    with pytest.raises(NotFoundException):
        made.get_info()
    assert not made.kill()


def test_kill_twice(own: Create) -> None:
    made = own()
    assert made.is_running() and made.kill() and not made.is_running() and not made.kill()


def test_kill_in_the_middle_of_a_command_is_told_at_once(own: Create) -> None:
    made = own()
    command = made.commands.run("echo begun; sleep 60", background=True)
    made.kill()
    started = time.monotonic()
    with pytest.raises((SandboxException, TimeoutException)) as caught:
        command.wait()
    assert not isinstance(caught.value, CommandExitException)
    assert time.monotonic() - started < 15


def test_unknown_sandbox_and_template() -> None:
    with pytest.raises(NotFoundException):
        Sandbox.connect("i" + "a" * 22)
    with pytest.raises(SandboxException, match="404"):
        Sandbox.create("no-such-template")
    assert not Sandbox.kill("i" + "a" * 22)


def test_wrong_key() -> None:
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "0" * 40)


def test_metrics(sandbox: Sandbox) -> None:
    *earlier, sample = sandbox.get_metrics()
    assert [each.timestamp for each in earlier] == sorted(each.timestamp for each in earlier)
    assert sample.cpu_count >= 1 and 0 < sample.mem_used <= sample.mem_total and sample.disk_total > 0
    old = datetime.datetime.now() - datetime.timedelta(hours=2)
    assert sandbox.get_metrics(start=old - datetime.timedelta(hours=1), end=old) == []


def test_list_filters_and_pages(own: Create) -> None:
    before = datetime.datetime.now(datetime.UTC)
    made = [own(metadata={"of": "list", "odd name": "v&=1%"}) for _ in range(2)]
    query = SandboxQuery(metadata={"odd name": "v&=1%"})
    pages = Sandbox.list(query=query, limit=1)
    first = pages.next_items()
    assert [one.sandbox_id for one in first] == [made[1].sandbox_id] and pages.has_next  # newest first
    assert [one.sandbox_id for one in pages.next_items()] == [made[0].sandbox_id] and not pages.has_next
    assert first[0].metadata == {"of": "list", "odd name": "v&=1%"} and first[0].state == SandboxState.RUNNING
    assert all_of(Sandbox.list(query=SandboxQuery(metadata={"of": "nothing"}))) == []
    assert all_of(Sandbox.list(query=SandboxQuery(metadata={"of": "list"}, state=[SandboxState.PAUSED]))) == []
    if "order" in Sandbox.list.__code__.co_varnames:
        ids = [one.sandbox_id for one in all_of(Sandbox.list(query=query, order="asc"))]
        assert ids == [one.sandbox_id for one in made]
    if "started_after" in SandboxQuery.__dataclass_fields__:
        of_now = SandboxQuery(metadata={"of": "list"}, started_after=before)
        assert len(all_of(Sandbox.list(query=of_now))) == 2
        started = made[1].get_info().started_at
        (last,) = all_of(Sandbox.list(query=SandboxQuery(metadata={"of": "list"}, started_after=started)))
        assert last.sandbox_id == made[1].sandbox_id


def test_pause_keeps_memory_and_tokens(own: Create) -> None:
    made = own(timeout=100)
    boot = made.files.read(BOOT_ID)
    running = made.commands.run("i=0; while sleep 0.2; do i=$((i+1)); echo $i > /tmp/count; done", background=True)
    time.sleep(0.5)
    assert made.pause()
    assert not made.pause()
    assert not made.is_running() and made.get_info().state == SandboxState.PAUSED
    started = time.monotonic()
    with pytest.raises((SandboxException, TimeoutException)):  # what was under way is cut, and does not hang
        running.wait()
    with pytest.raises((SandboxException, TimeoutException)):
        made.commands.run("true")
    assert time.monotonic() - started < 15
    (listed,) = [one for one in all_of(Sandbox.list()) if one.sandbox_id == made.sandbox_id]
    assert listed.state == SandboxState.PAUSED
    again = Sandbox.connect(made.sandbox_id, timeout=120)
    assert again.commands.run("sleep 0.5; cat /tmp/count").stdout.strip() != "0"
    assert [one.pid for one in again.commands.list()] == [running.pid]
    assert made.files.read(BOOT_ID) == boot  # the object of before the pause goes on
    left = made.get_info().end_at - datetime.datetime.now(datetime.UTC)
    assert 60 < left.total_seconds() <= 120


def test_a_pause_without_memory_keeps_the_files_only(own: Create) -> None:
    made = own(timeout=100)
    boot = made.files.read(BOOT_ID)
    made.files.write("kept", "1")
    made.commands.run("sleep 300", background=True)
    assert made.pause(keep_memory=False)
    assert made.get_info().state == SandboxState.PAUSED
    again = Sandbox.connect(made.sandbox_id, timeout=100)
    assert again.files.read("kept") == "1" and again.commands.list() == []
    assert again.files.read(BOOT_ID) != boot


def test_a_paused_sandbox_can_be_killed(own: Create) -> None:
    made = own()
    made.pause()
    assert made.kill() and not made.kill()


def test_auto_pause_and_auto_resume(own: Create, eventually: Callable[..., None]) -> None:
    made = own(lifecycle={"on_timeout": "pause", "auto_resume": True})
    made.files.write("kept", "1")
    made.set_timeout(1)
    eventually(lambda: made.get_info().state == SandboxState.PAUSED)
    info = made.get_info()
    assert str(info.lifecycle["on_timeout"]) in ("pause", "SandboxOnTimeout.PAUSE") and info.lifecycle["auto_resume"]
    assert made.files.read("kept") == "1"  # the request itself wakes it
    assert made.get_info().state == SandboxState.RUNNING


def test_snapshots(own: Create) -> None:
    made = own()
    made.files.write("state", "one")
    taken = made.create_snapshot(name="checked")
    named = [taken.snapshot_id]
    assert taken.names == ["checked"] and made.files.read("state") == "one"
    made.files.write("state", "two")
    assert [one.snapshot_id for one in all_of(made.list_snapshots())] == named
    copies = [own(taken.snapshot_id, envs={"NEW": "1"}), own("checked")]
    assert [copy.files.read("state") for copy in copies] == ["one", "one"]
    assert copies[0].commands.run("echo $NEW $E2B_SANDBOX_ID").stdout.split() == ["1", copies[0].sandbox_id]
    assert Sandbox.delete_snapshot(taken.snapshot_id)
    assert not Sandbox.delete_snapshot(taken.snapshot_id)


@NEWER
def test_a_snapshot_of_the_files_alone(own: Create) -> None:
    made = own()
    made.files.write("state", "one")
    made.commands.run("sleep 1000", background=True, timeout=0)
    taken = made.create_snapshot(mode="filesystem")
    assert made.commands.run("pgrep -xc sleep").stdout == "1\n"  # it goes on
    made.files.write("state", "two")
    copy = own(taken.snapshot_id)
    assert copy.files.read("state") == "one"
    assert copy.commands.run("pgrep -xc sleep; true").stdout == "0\n"
    made.pause()
    with pytest.raises(SandboxException, match="409"):
        made.create_snapshot(mode="filesystem")
    assert Sandbox.delete_snapshot(taken.snapshot_id)


def test_fork(own: Create) -> None:
    made = own(metadata={"of": "fork"}, envs={"MARK": "kept"})
    made.files.write("state", "parent")
    forks = made.fork(count=2, timeout=120)
    try:
        assert len({made.sandbox_id, *(one.sandbox_id for one in forks)}) == 3
        forks[0].files.write("state", "child")
        assert [one.files.read("state") for one in (made, *forks)] == ["parent", "child", "parent"]
        assert forks[0].get_info().metadata == {"of": "fork"}
        assert forks[1].commands.run("echo $MARK $E2B_SANDBOX_ID").stdout.split() == ["kept", forks[1].sandbox_id]
    finally:
        for one in forks:
            one.kill()


def test_network_can_be_closed_and_opened(own: Create) -> None:
    made = own(allow_internet_access=False)
    assert made.get_info().allow_internet_access is False
    made.update_network({"allow_internet_access": True})
    assert made.get_info().allow_internet_access is True
    made.update_network({"deny_out": ["0.0.0.0/0"]})
    assert made.get_info().allow_internet_access is False
    made.update_network({"deny_out": ["0.0.0.0/0"], "allow_out": ["1.1.1.1", "*.example.org"]})
    assert made.get_info().allow_internet_access is False
    made.update_network({"deny_out": ["1.1.1.0/24"]})
    assert made.get_info().allow_internet_access is True
    with pytest.raises(SandboxException, match="400"):
        made.update_network({"deny_out": ["0.0.0.0/0"], "allow_out": ["10.0.0.1"]})


@NEWER
def test_idempotency_key(own: Create) -> None:
    key = f"key-{time.time_ns()}"
    first, second = own(idempotency_key=key), own(idempotency_key=key)
    assert first.sandbox_id == second.sandbox_id
    with pytest.raises(SandboxException, match="422"):
        own(idempotency_key=key, metadata={"another": "request"})


@pytest.mark.parametrize(
    "options",
    [
        {"network": {"egress_proxy": {"address": "proxy.example.org:1080"}}},
        {"volume_mounts": {"/data": "no-such-volume"}},
    ],
)
def test_what_is_not_offered_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SandboxException, match=r"501: .*not offered|404"):
        Sandbox.create(**options)


@NEWER
def test_an_update_that_is_not_offered_changes_nothing(sandbox: Sandbox) -> None:
    before = sandbox.get_info()
    with pytest.raises(SandboxException, match=r"501: .*not offered"):
        sandbox.update_network({"egress_proxy": {"address": "192.0.2.1:1080"}, "deny_out": ["0.0.0.0/0"]})
    assert sandbox.get_info().allow_internet_access == before.allow_internet_access


@NEWER
def test_name_servers(own: Create) -> None:
    closed = {"allow_out": ["api.example.org"], "deny_out": ["0.0.0.0/0"]}
    made = own(network={**closed, "dns_servers": ["9.9.9.9"]})
    assert made.get_info().network["dns_servers"] == ["9.9.9.9"]
    made.update_network({**closed, "dns_servers": []})
    assert made.get_info().network["dns_servers"] == []
    made.update_network(closed)
    assert "dns_servers" not in made.get_info().network
    with pytest.raises(SandboxException, match=r"400: .*not public"):
        made.update_network({**closed, "dns_servers": ["10.0.0.53"]})


def test_template_names() -> None:
    assert Template.exists("base") and Template.alias_exists("standard") and not Template.exists("no-such-template")
