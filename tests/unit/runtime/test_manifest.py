"""Which snapshots may be thawed where."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hutch.errors import SnapshotCorrupt, SnapshotIncompatible
from hutch.model import Resources
from hutch.runtime.cpu import Cpu, parse
from hutch.runtime.manifest import MANIFEST, ImageIdentity, Manifest, Origin, read_manifest

CPU = Cpu(vendor="GenuineIntel", model="Some CPU", flags=("avx", "sse"))
ORIGIN = Origin(
    runtime="gvisor",
    version="runsc version 1",
    image=ImageIdentity(path="/a.erofs", bytes=100, superblock="ab" * 32),
    resources=Resources(cpus=1, memory_mib=512, disk_mib=1024, pids=100),
    addresses=("10.0.0.2",),
)
MANIFEST_OF = Manifest(origin=ORIGIN, cpu=CPU, files={"pages.img": 3}, created_at=datetime.now(UTC))


def changed(**changes: object) -> Origin:
    return ORIGIN.model_copy(update=changes)


def test_the_same_fits() -> None:
    MANIFEST_OF.check(ORIGIN, CPU)


@pytest.mark.parametrize(
    "new",
    [
        changed(addresses=("10.0.0.6",)),
        changed(image=ORIGIN.image.model_copy(update={"path": "/elsewhere"})),
        changed(resources=ORIGIN.resources.model_copy(update={"cpus": 4, "memory_mib": 1024})),
    ],
)
def test_place_address_memory_and_cpus_may_differ(new: Origin) -> None:
    MANIFEST_OF.check(new, CPU)


@pytest.mark.parametrize(
    ("new", "theirs", "ours"),
    [
        (changed(runtime="qemu"), "gvisor", "qemu"),
        (changed(version="runsc version 2"), "runsc version 1", "runsc version 2"),
        (changed(image=ORIGIN.image.model_copy(update={"superblock": "cd" * 32})), "abababababab", "cdcdcdcdcdcd"),
        (changed(image=ORIGIN.image.model_copy(update={"bytes": 101})), "100 bytes", "101 bytes"),
        (changed(resources=ORIGIN.resources.model_copy(update={"disk_mib": 2048})), "1024", "2048"),
        (changed(resources=ORIGIN.resources.model_copy(update={"pids": 50})), "100", "50"),
    ],
)
def test_what_differs_is_named_on_both_sides(new: Origin, theirs: str, ours: str) -> None:
    with pytest.raises(SnapshotIncompatible) as caught:
        MANIFEST_OF.check(new, CPU)
    assert theirs in caught.value.detail and ours in caught.value.detail
    assert theirs in caught.value.extra["snapshot"] and ours in caught.value.extra["here"]


def test_a_cpu_that_can_more_will_do_and_one_that_can_less_will_not() -> None:
    MANIFEST_OF.check(ORIGIN, CPU.model_copy(update={"flags": ("avx", "avx2", "sse"), "model": "Newer"}))
    with pytest.raises(SnapshotIncompatible, match=r"Some CPU.*Older.*lacks avx"):
        MANIFEST_OF.check(ORIGIN, CPU.model_copy(update={"flags": ("sse",), "model": "Older"}))
    with pytest.raises(SnapshotIncompatible, match=r"GenuineIntel.*AuthenticAMD"):
        MANIFEST_OF.check(ORIGIN, CPU.model_copy(update={"vendor": "AuthenticAMD"}))


def test_a_manifest_is_read_back_and_its_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(MANIFEST_OF.model_dump_json())
    with pytest.raises(SnapshotCorrupt, match="pages"):
        read_manifest(tmp_path)
    (tmp_path / "pages.img").write_bytes(b"abc")
    assert read_manifest(tmp_path) == MANIFEST_OF
    (tmp_path / "pages.img").write_bytes(b"ab")
    with pytest.raises(SnapshotCorrupt, match="2 bytes instead of 3"):
        read_manifest(tmp_path)


def test_an_image_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for name, content in (("a", b"x" * 9000), ("b", b"x" * 9000), ("c", b"y" + b"x" * 8999), ("d", b"x" * 9001)):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (ImageIdentity.of(tmp_path / name) for name in "abcd")
    assert a.same(b) and not a.same(c) and not a.same(d)


def test_cpuinfo_of_x86_and_of_arm() -> None:
    x86 = (
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t: sse avx\n\nprocessor\t: 1\nflags\t: z"
    )
    assert parse(x86) == Cpu(vendor="GenuineIntel", model="Xeon", flags=("avx", "sse"))
    arm = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
    assert parse(arm) == Cpu(vendor="0x41", model="unknown", flags=("asimd", "fp"))
