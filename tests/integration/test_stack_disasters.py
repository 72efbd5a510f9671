"""A full disk, a damaged chunk, a machine that is restarted, an upgrade: through the whole of Hutch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_stack_killed import tidy_soon
from tests.leaks import look
from tests.stack import Stack

from hutch.settings import get_settings

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@contextmanager
def stacked(**settings: str) -> Iterator[Stack]:
    stack = Stack(**settings)
    try:
        stack.up()
        yield stack
    finally:
        stack.close()


def stored(stack: Stack, box: str) -> set[Path]:
    """All packs, once every snapshot of the sandbox is in chunks."""
    end = time.monotonic() + 60
    while any(each["stored_bytes"] is None for each in stack.get(f"/v1/sandboxes/{box}/snapshots")["snapshots"]):
        assert time.monotonic() < end, stack.words()
        time.sleep(0.1)
    return set(stack.kept("packs").iterdir())


def fill(disk: Path) -> None:
    """Until nothing is left, also of what somebody gives back meanwhile."""
    end = time.monotonic() + 60
    subprocess.run(["fallocate", "-l", str(shutil.disk_usage(disk).free - (1 << 20)), disk / "filler"], check=True)
    while shutil.disk_usage(disk).free >= 1 << 16:
        assert time.monotonic() < end
        append = ["dd", "if=/dev/zero", f"of={disk / 'rest'}", "oflag=append", "conv=notrunc", "bs=64K"]
        subprocess.run(append, check=False, capture_output=True)
        time.sleep(0.1)


def damage(pack: Path) -> None:
    """One bit in each kibibyte."""
    data = bytearray(pack.read_bytes())
    for place in range(0, len(data), 1024):
        data[place] ^= 1
    pack.write_bytes(data)


def test_a_damaged_chunk_names_its_snapshot_and_hurts_no_other(standard_template: str) -> None:
    with stacked(template_snapshots="false") as stack:
        (good, content), (bad, _) = stack.make(), stack.make()
        stack.execute(bad, "head -c 3000000 /dev/urandom > /home/user/noise")
        whole = stack.change(good, "pause")["snapshot"]
        before = stored(stack, good)
        snapshot = stack.change(bad, "pause")["snapshot"]
        packs = stored(stack, bad) - before
        stack.end()
        for pack in packs:
            damage(pack)
        shutil.rmtree(stack.kept("hot") / snapshot)
        damage(stack.kept("hot") / whole / "pages.img")  # which is made again from its chunks
        stack.up()
        for verb, body in (("resume", None), ("fork", {"count": 2}), ("exec", {"command": ["true"]})):
            refused = stack.ask("POST", f"/v1/sandboxes/{bad}/{verb}", body)
            assert refused.json()["code"] == "snapshot_corrupt", refused.text
            assert snapshot in refused.json()["detail"]
            assert stack.state(bad) == "paused"
        assert stack.contents(good) == content
        (fork,) = stack.change(good, "fork", {"count": 1})["sandboxes"]
        assert stack.contents(fork["id"]) == content
        for box in (good, bad, fork["id"]):
            stack.delete(box)
        assert stack.sandboxes() == []
        tidy_soon(stack)


@contextmanager
def small_disk(stack: Stack, megabytes: int) -> Iterator[Path]:
    """The data directory on a file system of its own. Everything of the stack is gone afterwards."""
    file, directory = stack.root / "disk", stack.root / "d"
    with file.open("wb") as sparse:
        sparse.truncate(megabytes << 20)
    directory.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", file], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", file, directory], check=True)
    try:
        yield directory
        stack.end()
    finally:
        stack.kill_if_running()
        stack.command("--remove-all")
        left = look(stack.id, stack.root)
        subprocess.run(["umount", directory], check=True)
        shutil.rmtree(stack.root)
    assert not left.processes and not left.cgroups and not left.namespaces


def test_a_disk_that_fills_up_in_the_middle_of_a_freeze_leaves_the_sandbox_running(standard_template: str) -> None:
    stack = Stack()
    with small_disk(stack, 3000) as disk:
        stack.up()
        box, _ = stack.make()
        stack.execute(box, "head -c 60000000 /dev/urandom > /home/user/much")
        content = stack.contents(box)
        other, others = stack.make()
        stack.change(other, "pause")
        stored(stack, other)
        usage = shutil.disk_usage(disk)
        subprocess.run(["fallocate", "-l", str(usage.free - (25 << 20)), disk / "filler"], check=True)
        for verb, body in (("pause", None), ("snapshots", {}), ("fork", {"count": 1})):
            refused = stack.ask("POST", f"/v1/sandboxes/{box}/{verb}", body)
            assert (refused.status_code, refused.json()["code"]) == (507, "disk_full"), refused.text
            assert stack.state(box) == "running"
            assert stack.contents(box) == content
            assert not list((disk / "node" / "sandboxes").glob("*/*frozen*"))
        assert stack.state(other) == "paused"
        (disk / "filler").unlink()
        stack.change(box, "pause")
        assert stack.contents(box) == content
        assert stack.contents(other) == others
        for each in (box, other):
            stored(stack, each)
        fill(disk)
        for each in (box, other):  # which is the way out
            stack.delete(each)
        assert stack.sandboxes() == []
        tidy_soon(stack)


def restart_machine(stack: Stack) -> None:
    """What is left after one: the data directory. (The host's boot id is the same, so records get another.)"""
    node = stack.id
    stack.kill_server()
    stack.kill()
    for line in look(node, stack.root).processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    end = time.monotonic() + 20
    while look(node, stack.root).processes:
        assert time.monotonic() < end
        time.sleep(0.05)
    left = look(node, stack.root)
    for namespace in left.namespaces:
        subprocess.run(["ip", "netns", "del", namespace], check=True)
    for table in left.tables:
        subprocess.run(["nft", "delete", "table", *table.split()], check=True)
    for mount in sorted(left.mounts - {f"/run/netns/{name}" for name in left.namespaces}, reverse=True):
        subprocess.run(["umount", mount], check=False)
    for group in sorted(left.cgroups, reverse=True):
        with contextlib.suppress(FileNotFoundError):
            (Path("/sys/fs/cgroup") / group).rmdir()
    shutil.rmtree(stack.root / "r")
    for record in (stack.node_dir / "sandboxes").glob("*/record.json"):
        said = json.loads(record.read_text())
        record.write_text(json.dumps(said | {"machine_boot": "an earlier one"}))


def test_what_is_paused_outlives_a_restart_of_the_machine_and_what_runs_says_why_it_has_failed(
    standard_template: str,
) -> None:
    with stacked() as stack:
        (paused, content), (running, _) = stack.make(), stack.make()
        stack.write(paused, "a", b"kept")
        content = stack.contents(paused)
        kept = stack.change(running, "snapshots", {"name": "kept"})["id"]
        stack.change(paused, "pause")
        restart_machine(stack)
        stack.up()
        assert stack.state(paused) == "paused"
        end = time.monotonic() + 30
        while (found := stack.get(f"/v1/sandboxes/{running}"))["state"] == "running":
            assert time.monotonic() < end
            time.sleep(0.1)
        assert (found["state"], found["reason"]) == ("failed", "the machine was restarted")
        tidy_soon(stack)
        assert stack.contents(paused) == content
        again = stack.must(stack.ask("POST", "/v1/sandboxes", {"from": kept}))["id"]
        assert stack.add(again, 1) == 1
        for box in (paused, again):
            stack.delete(box)


def images_only(cache: Path, copy: Path) -> None:
    """A cache from which sandboxes can be booted: the images, and what says which layers they are of."""
    (copy / "rootfs").mkdir(parents=True)
    subprocess.run(["cp", "-al", cache / "images", copy / "images"], check=True)
    for layer in (cache / "rootfs").iterdir():
        if layer.is_dir():
            (copy / "rootfs" / layer.name).mkdir()
        else:
            shutil.copy(layer, copy / "rootfs")


FIRST_RECORD = """id step template resources network deadline guest_token started_at machine_boot image org boot_id slot
address user workdir boot_ms resumed_ms taking snapshot fallback parent rolled_back cpu_before figures llm breaches
death ended_at"""
FIRST_NOTE = "guest_token boot_id user workdir"
"""All that was written by the first version that could pause. It never changes; what is not in it came later."""


def older(path: Path, fields: str) -> None:
    """As the first version wrote it."""
    said: dict[str, Any] = json.loads(path.read_text())
    assert set(fields.split()) < set(said), f"not written any more: {set(fields.split()) - set(said)}"
    path.write_text(json.dumps({name: said[name] for name in fields.split()}))


def test_what_is_paused_outlives_an_upgrade_that_builds_all_images_anew(standard_template: str) -> None:
    stack = Stack()
    own = stack.root / "cache"
    stack.set("cache_dir", own)
    images_only(get_settings().cache_dir, own)
    try:
        stack.up()
        box, content = stack.make()
        snapshot = stack.change(box, "pause")["snapshot"]
        stack.end()
        shutil.rmtree(own)
        older(stack.node_dir / "sandboxes" / box / "record.json", FIRST_RECORD)
        older(stack.kept("hot") / snapshot / "node.json", FIRST_NOTE)
        stack.up()
        assert stack.contents(box) == content
        (fork,) = stack.change(box, "fork", {"count": 1})["sandboxes"]
        assert stack.contents(fork["id"]) == content
        for each in (box, fork["id"]):
            stack.delete(each)
    finally:
        stack.close()
