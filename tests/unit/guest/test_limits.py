"""Limits: what the guest does about them, and whom it tells."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hutch.model import LimitBreach
from hutch_guest.limits.breach import describe_bytes
from hutch_guest.limits.monitor import Monitor
from hutch_guest.limits.usage import CpuMeter
from tests.unit.guest.client import LIMIT, Guest, eventually

HOG = "x = bytearray(80 << 20)\nimport sys, time\nprint('full', flush=True)\ntime.sleep(60)"


def test_the_largest_process_dies_and_everybody_is_told(guest: Guest) -> None:
    agent = guest.start("sleep", "60", retain="all")
    small = guest.start("sleep", "60")
    hog = guest.start("sh", "-c", f'python3 -c "{HOG}"; echo status $?; exit 5')
    eventually(lambda: guest.state(hog["id"])["output_end"])
    reply = guest.call("POST", "/hutch/limit", {"limit": "memory", "amount": 64 << 20, "used": 90 << 20})
    breach = LimitBreach.model_validate(reply.json)
    assert (breach.limit, breach.amount, breach.used) == ("memory", 64 << 20, 90 << 20)
    assert (breach.action, breach.process) == ("process_killed", "python3")
    assert breach.message == "memory limit 64 MiB reached; process python3 killed"
    frames = list(guest.frames(hog["id"]))
    assert [json.loads(data) for kind, _, data in frames if kind == LIMIT] == [reply.json]
    assert b"status 137\n" in [data for _, _, data in frames]
    assert json.loads(frames[-1][2])["breach"] == reply.json
    assert [kind for kind, _, _ in guest.frames(agent["id"], 0, follow=0)] == [LIMIT]
    assert list(guest.frames(small["id"], 0, follow=0)) == []
    for state in (agent, small):
        assert guest.state(state["id"])["running"]
        guest.call("DELETE", f"/hutch/processes/{state['id']}")


def test_with_nothing_to_kill_it_says_so(guest: Guest) -> None:
    for state in guest.call("GET", "/hutch/processes").json["processes"]:
        guest.call("DELETE", f"/hutch/processes/{state['id']}")
    reply = guest.call("POST", "/hutch/limit", {"limit": "memory", "amount": 1, "used": 2})
    assert LimitBreach.model_validate(reply.json).action == "refused"


@pytest.mark.parametrize("body", [{}, {"limit": "cpu"}, {"limit": "memory"}, {"limit": "memory", "amount": "1"}])
def test_nonsense_is_refused(guest: Guest, body: dict[str, Any]) -> None:
    assert guest.call("POST", "/hutch/limit", body).status == 400


def test_a_full_disk_is_told_once_until_there_is_room_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notes: list[dict[str, object]] = []
    process = SimpleNamespace(
        id="e", pid=1 << 22, running=True, retain_all=False, breach=None, note=notes.append, tag=None
    )
    guest: Any = SimpleNamespace(limits={"disk_bytes": 1000 << 20}, manager=SimpleNamespace(processes={"e": process}))
    monitor = Monitor(guest, str(tmp_path))
    figures = {"used": 0, "total": 1000 << 20}
    monkeypatch.setattr("hutch_guest.limits.usage.disk", lambda *_: figures)
    culprit: Any = process
    for used, told in ((999, 0), (1000, 1), (1000, 1), (950, 1), (1000, 1), (800, 1), (1000, 2)):
        figures["used"] = used << 20
        monitor.check_disk(culprit)
        assert len(notes) == told
    breach = LimitBreach.model_validate(notes[0])
    assert (breach.limit, breach.action) == ("disk", "refused")
    assert breach.message == "disk limit 1000 MiB reached; writes are refused"
    assert LimitBreach.model_validate(process.breach).used == 1000 << 20


class Brood:
    """A pids group whose kernel forgets to count."""

    limit = 60

    def __init__(self) -> None:
        self.counted = 0

    def current(self) -> int:
        return self.counted


def test_a_brood_over_the_limit_is_killed_and_one_at_it_is_only_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notes: list[dict[str, object]] = []
    process = SimpleNamespace(
        id="e", pid=1 << 22, running=True, retain_all=False, breach=None, note=notes.append, tag=None
    )
    guest: Any = SimpleNamespace(limits={}, manager=SimpleNamespace(processes={"e": process}))
    monitor = Monitor(guest, str(tmp_path))
    monitor._pids = brood = Brood()  # type: ignore[assignment]
    there, killed = [1], []
    monkeypatch.setattr("os.listdir", lambda _: [str(pid) for pid in range(there[0])])
    monkeypatch.setattr("hutch_guest.limits.monitor.busiest", lambda _: (process, 7, there[0]))
    monkeypatch.setattr("hutch_guest.processes.tree.kill_frozen", lambda *who: killed.append(who))
    for counted, exist, told, dead in ((10, 11, 0, 0), (60, 61, 1, 0), (60, 66, 1, 0), (60, 90, 2, 1), (10, 10, 2, 1)):
        brood.counted, there[0] = counted, exist
        monitor._check_pids(starved=False)
        assert (len(notes), len(killed)) == (told, dead)
    refused, ended = (LimitBreach.model_validate(note) for note in notes)
    assert (refused.action, refused.message) == ("refused", "process limit 60 reached; new processes are refused")
    assert (ended.action, ended.used, killed) == ("process_killed", 89, [("e", 1 << 22)])


def test_sizes_are_written_for_people() -> None:
    assert [describe_bytes(n) for n in (0, 2048, 512 << 20, 3 << 29)] == ["0 bytes", "2 KiB", "512 MiB", "1.5 GiB"]


def test_cpu_meter() -> None:
    meter = CpuMeter()
    sum(range(100_000))
    assert 0 <= meter.percent() <= 100
