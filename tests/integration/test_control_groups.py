"""Control groups on the machine's own kernel, in whatever version it has."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.leaks import assert_clean

from hutch.runtime.cgroups import CgroupLimits, Cgroups, CgroupsV2, detect
from hutch.runtime.cgroups.files import write
from hutch.runtime.process import HostProcess

pytestmark = pytest.mark.root

LIMITS = CgroupLimits(memory_bytes=64 << 20, pids=20, cpus=0.5)
FORKS = "for n in 1 2 3 4 5; do sh -c 'sleep 60 & wait' & done; sleep 1; echo started; wait"
"""A shell, five more, and a `sleep` in each."""
NAME = "sbx_x"


def new_node() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))


@pytest.fixture
def node() -> Iterator[str]:
    id = new_node()
    yield id
    assert_clean(id)


@contextlib.contextmanager
def running(cgroups: Cgroups, script: str) -> Iterator[None]:
    """Run a shell in the group, from its first line of output on; afterwards the group is gone."""
    enter = "".join(f"echo 0 > {file}; " for file in cgroups.join_files(NAME))
    process = subprocess.Popen(["sh", "-c", enter + script], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield
        finally:
            cgroups.destroy(NAME)


def test_limits_are_in_force_and_everything_in_the_group_is_killed(node: str) -> None:
    cgroups = detect(node)
    assert cgroups.problems() == []
    cgroups.create(NAME, LIMITS)
    with running(cgroups, FORKS):
        members = [process for pid in cgroups.processes(NAME) if (process := HostProcess.of(pid))]
        assert len(members) == 11
        assert cgroups.usage(NAME).pids == 11
        assert 0 < cgroups.usage(NAME).memory_bytes < LIMITS.memory_bytes
    assert not any(process.alive() for process in members)
    assert not cgroups.exists(NAME)


def test_fork_beyond_the_limit_fails(node: str) -> None:
    cgroups = detect(node)
    cgroups.create(NAME, LIMITS)
    with running(cgroups, "for n in $(seq 40); do sleep 60 >/dev/null & done 2>/dev/null; echo never"):
        assert cgroups.usage(NAME).pids <= LIMITS.pids


def test_the_kernel_counts_what_it_kills_for_memory(node: str) -> None:
    cgroups = detect(node)
    cgroups.create(NAME, LIMITS)
    with running(cgroups, "head -c 200M /dev/zero | tail; echo over"):
        assert cgroups.usage(NAME).oom_kills > 0


def test_version_2_kills_a_group_in_one_stroke() -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if mount is None:
        pytest.skip("no cgroup2 hierarchy is mounted")
    cgroups = CgroupsV2(new_node(), mount)
    (group,) = cgroups.directories(NAME)
    group.mkdir(parents=True)  # without limits: on a mixed machine the controllers belong to version 1
    with running(cgroups, FORKS):
        assert len(cgroups.processes(NAME)) == 11
        write(group / "cgroup.kill", 1)  # what `destroy` does before it tries anything else
        end = time.monotonic() + 5
        while cgroups.processes(NAME) and time.monotonic() < end:
            time.sleep(0.01)
        assert cgroups.processes(NAME) == set()
    assert not group.parent.exists()
