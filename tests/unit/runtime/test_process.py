"""Processes that are remembered are never mistaken for later ones."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace

from hutch.runtime.process import HostProcess


def test_a_running_process_is_alive_and_survives_being_written_down() -> None:
    process = HostProcess.of(os.getpid())
    assert process is not None
    assert process.alive()
    assert HostProcess.from_dict(process.to_dict()) == process


def test_a_zombie_and_a_reaped_process_are_dead() -> None:
    child = subprocess.Popen(["/bin/sleep", "30"])
    process = HostProcess.of(child.pid)
    assert process is not None and process.alive()
    process.kill()
    end = time.monotonic() + 5
    while process.alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not process.alive()  # a zombie, until:
    child.wait()
    assert not process.alive()
    assert HostProcess.of(child.pid) is None
    process.kill()


def test_another_process_with_the_same_number_is_neither_it_nor_killed() -> None:
    child = subprocess.Popen(["/bin/sleep", "30"])
    try:
        process = HostProcess.of(child.pid)
        assert process is not None
        for other in (replace(process, start=process.start + 1), replace(process, boot="another")):
            assert not other.alive()
            other.kill()
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
