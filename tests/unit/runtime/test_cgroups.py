"""Control groups: what is written for limits and read for figures, on both versions.

The trees are plain directories here: on a real one of each version the kernel answers the same files. That limits
hold is shown by the conformance suite, on whatever version the machine has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.runtime.cgroups import CgroupLimits, CgroupsV1, CgroupsV2, CgroupUsage, detect

LIMITS = CgroupLimits(memory_bytes=640 << 20, pids=768, cpus=1.5)
V1_MOUNTS = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
V2_MOUNTS = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,memory_recursiveprot 0 0\n"


def mounts(tmp_path: Path, text: str) -> str:
    file = tmp_path / "mounts"
    file.write_text(text)
    return str(file)


def kernel_files(group: Path, *names: str) -> Path:
    """Make the group as the kernel would, with these files in it."""
    group.mkdir(parents=True)
    for name in names:
        (group / name).touch()
    return group


@pytest.fixture
def v2(tmp_path: Path) -> CgroupsV2:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    return CgroupsV2("ab12", tmp_path)


@pytest.fixture
def v1(tmp_path: Path) -> CgroupsV1:
    for name in ("cpu", "memory", "pids"):
        (tmp_path / name).mkdir()
    both = tmp_path / "cpu"
    return CgroupsV1("ab12", {"cpu": both, "cpuacct": both, "memory": tmp_path / "memory", "pids": tmp_path / "pids"})


def test_version_1_is_told_by_the_memory_hierarchy(tmp_path: Path) -> None:
    found = detect("ab12", mounts(tmp_path, V1_MOUNTS))
    assert isinstance(found, CgroupsV1)
    assert found.problems() == []
    assert found.join_files("sbx_x") == [
        "/sys/fs/cgroup/cpu,cpuacct/hutch-ab12/sbx_x/cgroup.procs",
        "/sys/fs/cgroup/memory/hutch-ab12/sbx_x/cgroup.procs",
        "/sys/fs/cgroup/pids/hutch-ab12/sbx_x/cgroup.procs",
    ]


def test_version_2_is_told_by_there_being_no_other(tmp_path: Path) -> None:
    found = detect("ab12", mounts(tmp_path, V2_MOUNTS))
    assert isinstance(found, CgroupsV2)
    assert found.join_files("sbx_x") == ["/sys/fs/cgroup/hutch-ab12/sbx_x/cgroup.procs"]


def test_missing_controllers_are_named_with_a_way_out(v2: CgroupsV2, tmp_path: Path) -> None:
    assert v2.problems() == []
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (problem,) = v2.problems()
    assert "`pids`" in problem
    without = detect("ab12", mounts(tmp_path, V1_MOUNTS.replace("cgroup rw,relatime,pids", "cgroup rw,relatime")))
    assert [text for text in without.problems() if "`pids`" in text]


def test_limits_on_version_2(v2: CgroupsV2, tmp_path: Path) -> None:
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    kernel_files(tmp_path / "hutch-ab12", "cgroup.subtree_control")
    group = kernel_files(tmp_path / "hutch-ab12" / "sbx_x", *names)
    v2.create("sbx_x", LIMITS)
    written = {file.name: file.read_text() for file in group.iterdir()}
    assert written == {
        "memory.max": str(640 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "768",
        "cpu.max": "150000 100000",
    }
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert v2.names() == ["sbx_x"]
    assert v2.exists("sbx_x") and not v2.exists("sbx_y")


def v1_files(top: Path) -> None:
    files = {
        "memory": ["memory.limit_in_bytes"],
        "pids": ["pids.max"],
        "cpu": ["cpu.cfs_period_us", "cpu.cfs_quota_us"],
    }
    for controller, names in files.items():
        kernel_files(top / controller / "hutch-ab12" / "sbx_x", *names)


def test_limits_on_version_1(v1: CgroupsV1, tmp_path: Path) -> None:
    v1_files(tmp_path)
    v1.create("sbx_x", LIMITS)
    assert (tmp_path / "memory/hutch-ab12/sbx_x/memory.limit_in_bytes").read_text() == str(640 << 20)
    assert (tmp_path / "pids/hutch-ab12/sbx_x/pids.max").read_text() == "768"
    assert (tmp_path / "cpu/hutch-ab12/sbx_x/cpu.cfs_quota_us").read_text() == "150000"
    assert v1.names() == ["sbx_x"]


def test_figures_on_version_2_leave_out_the_page_cache(v2: CgroupsV2, tmp_path: Path) -> None:
    group = tmp_path / "hutch-ab12" / "sbx_x"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.stat").write_text("anon 500\nfile 400\ninactive_file 300\nactive_file 100\n")
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n")
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (group / "pids.current").write_text("42\n")
    (group / "pids.events").write_text("max 5\n")
    assert v2.usage("sbx_x") == CgroupUsage(cpu_seconds=2.5, memory_bytes=600, pids=42, oom_kills=3, pids_refused=5)


def test_figures_on_version_1_leave_out_the_page_cache(v1: CgroupsV1, tmp_path: Path) -> None:
    v1_files(tmp_path)
    memory = tmp_path / "memory/hutch-ab12/sbx_x"
    (memory / "memory.usage_in_bytes").write_text("1000\n")
    (memory / "memory.stat").write_text("cache 9\ninactive_file 1\ntotal_inactive_file 300\ntotal_active_file 100\n")
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "cpu/hutch-ab12/sbx_x/cpuacct.usage").write_text("2500000000\n")
    (tmp_path / "pids/hutch-ab12/sbx_x/pids.current").write_text("42\n")
    (tmp_path / "pids/hutch-ab12/sbx_x/pids.events").write_text("max 5\n")
    assert v1.usage("sbx_x") == CgroupUsage(cpu_seconds=2.5, memory_bytes=600, pids=42, oom_kills=3, pids_refused=5)


def test_what_is_gone_has_no_figures_and_is_destroyed_without_ado(v1: CgroupsV1, v2: CgroupsV2) -> None:
    for cgroups in (v1, v2):
        assert cgroups.usage("sbx_gone") == CgroupUsage()
        assert cgroups.processes("sbx_gone") == set()
        cgroups.destroy("sbx_gone")
        assert cgroups.names() == []


def test_the_last_group_takes_the_nodes_own_with_it(v2: CgroupsV2, tmp_path: Path) -> None:
    for name in ("sbx_x", "sbx_y"):
        (tmp_path / "hutch-ab12" / name).mkdir(parents=True)
    v2.destroy("sbx_x")
    assert v2.names() == ["sbx_y"]
    v2.destroy("sbx_y")
    assert not (tmp_path / "hutch-ab12").exists()
