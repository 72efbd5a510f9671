"""Volumes: files that sandboxes share, live, and that outlive them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from e2b import Sandbox, Volume
from e2b.exceptions import VolumeException, VolumeNotFoundException, VolumePathNotFoundException

from conftest import VERSION


@pytest.fixture(scope="module")
def volume() -> Iterator[Volume]:
    made = Volume.create("shared")
    yield made
    assert Volume.destroy(made.volume_id)
    assert not Volume.destroy(made.volume_id)


def test_names(volume: Volume) -> None:
    assert [found.name for found in Volume.list()] == ["shared"]
    assert Volume.get_info(volume.volume_id).token == volume.token
    assert Volume.connect(volume.volume_id).name == "shared"
    with pytest.raises(VolumeException, match="there is a volume"):
        Volume.create("shared")
    with pytest.raises(VolumeNotFoundException):
        Volume.connect("vol_nothing")
    with pytest.raises(VolumeException):
        Volume.create("no/name")


def test_files_without_a_sandbox(volume: Volume) -> None:
    written = volume.write_file("/hello.txt", "hello")
    assert (written.name, written.path, written.size, written.type.value) == ("hello.txt", "/hello.txt", 5, "file")
    assert (written.mode, written.uid, written.gid) == (0o644, 1000, 1000)
    assert volume.read_file("/hello.txt") == "hello"
    with pytest.raises(VolumePathNotFoundException):
        volume.write_file("/a/b/c.bin", b"x")
    big = bytes(range(256)) * 20_000
    assert volume.write_file("/a/b/c.bin", io.BytesIO(big), uid=7, gid=8, mode=0o600, force=True).size == len(big)
    assert volume.read_file("/a/b/c.bin", format="bytes") == big
    assert b"".join(volume.read_file("/a/b/c.bin", format="stream")) == big
    assert volume.get_info("/a/b/c.bin").uid == 7
    assert volume.update_metadata("/a/b/c.bin", mode=0o755).mode == 0o755
    assert volume.make_dir("/a/d", mode=0o700).type.value == "directory"
    assert [entry.path for entry in volume.list("/")] == ["/a", "/hello.txt"]
    assert [entry.path for entry in volume.list("/a", depth=2)] == ["/a/b", "/a/b/c.bin", "/a/d"]
    assert volume.exists("/a/d") and not volume.exists("/a/e")
    volume.remove("/a")
    assert not volume.exists("/a/b/c.bin")
    with pytest.raises(VolumePathNotFoundException):
        volume.remove("/a")
    with pytest.raises(VolumePathNotFoundException):
        volume.read_file("/../../etc/passwd")
    with pytest.raises(Exception, match="token"):
        Volume(volume.volume_id, "shared", "wrong", volume._domain).list("/")


def test_two_sandboxes_share_it(volume: Volume, own: Callable[..., Sandbox]) -> None:
    volume.write_file("/in.txt", "from outside")
    first, second = own(volume_mounts={"/data": volume}), own(volume_mounts={"/mnt/shared": "shared"})
    assert [(mount["name"], mount["path"]) for mount in first.get_info().volume_mounts or []] == [("shared", "/data")]
    assert first.commands.run("cat /data/in.txt").stdout == "from outside"
    assert second.files.read("/mnt/shared/in.txt") == "from outside"
    first.files.write("/data/out/first.txt", "one")
    assert second.commands.run("cat out/first.txt && echo two >> out/first.txt", cwd="/mnt/shared").stdout == "one"
    assert first.commands.run("cat /data/out/first.txt").stdout == "onetwo\n"
    assert volume.read_file("/out/first.txt") == "onetwo\n"
    volume.write_file("/in.txt", "changed")
    assert first.files.read("/data/in.txt") == "changed"
    with pytest.raises(VolumeException, match="mounted"):
        Volume.destroy(volume.volume_id)


def test_it_is_a_file_system(volume: Volume, own: Callable[..., Sandbox]) -> None:
    sandbox = own(volume_mounts={"/data": volume})
    script = r"""
    set -e; cd /data; mkdir -p fs/x; cd fs
    ln -s x/f link; echo f > x/f; test "$(cat link)" = f
    mv x y; mv y/f g; test "$(cat g)" = f
    chmod 640 g; touch -d @1000 g; test "$(stat -c '%a %Y' g)" = '640 1000'
    mkdir many; (cd many; touch $(seq 25); test "$(ls | wc -l)" = 25; rm $(seq 25)); rmdir y many
    ! rmdir /data/fs 2>/dev/null
    exec 3<> gone; echo kept >&3; rm gone; test "$(cat /proc/self/fd/3)" = kept; exec 3>&-
    dd if=/dev/urandom of=big bs=1M count=2 status=none; cp big copy; cmp big copy
    truncate -s 5 copy; truncate -s 10 copy; test "$(tail -c 5 copy | od -An -tx1 | tr -d ' ')" = 0000000000
    python3 -c 'import sqlite3; db = sqlite3.connect("db"); db.execute("create table t (a)"); db.commit()'
    ! ln g hard 2>/dev/null
    df -B1 --output=avail . | tail -1
    """
    done = sandbox.commands.run(script)
    assert int(done.stdout) > 1 << 30
    entry = volume.get_info("/fs/link")
    assert (entry.type.value, entry.target) == ("symlink", "x/f")
    assert volume.get_info("/fs/big").size == 2 << 20
    assert volume.get_info("/fs/g").uid == 1000
    denied = sandbox.commands.run("echo no > /data/root", user="root").exit_code
    assert denied == 0 and sandbox.commands.run("cat /data/root; ! sh -c 'echo no > /data/root'").stdout == "no\n"


@pytest.mark.skipif(VERSION < (2, 50), reason="snapshots and forks are newer")
def test_it_stays_through_pauses_and_in_forks(volume: Volume, own: Callable[..., Sandbox]) -> None:
    sandbox = own(volume_mounts={"/data": volume})
    loop = "i=0; while :; do i=$((i+1)); echo $i >> /data/count || exit 1; sleep 0.02; done"
    sandbox.commands.run(loop, background=True, timeout=0)
    sandbox.commands.run("until [ -s /data/count ]; do sleep 0.05; done")
    sandbox.pause()
    volume.write_file("/while-paused", "seen")
    sandbox.connect()
    assert sandbox.files.read("/data/while-paused") == "seen"
    (fork,) = sandbox.fork()
    try:
        assert fork.commands.run("cat /data/while-paused").stdout == "seen"
        before = len(volume.read_file("/count"))
        sandbox.commands.run(f"until [ $(wc -c < /data/count) -gt {before} ]; do sleep 0.05; done", timeout=20)
    finally:
        fork.kill()
    sandbox.commands.run("pkill -f '[d]ata/count'; true")
    sandbox.pause(mode="filesystem")
    sandbox.connect()
    assert sandbox.commands.run("cat /data/while-paused").stdout == "seen"


def test_what_cannot_be_mounted(volume: Volume) -> None:
    for mounts in ({"/data": "no-such"}, {"/": volume}, {"/proc/x": volume}, {"/a": volume, "/a/b": volume}):
        with pytest.raises(Exception, match=r"no volume|can be mounted|in the other") as caught:
            Sandbox.create(volume_mounts=mounts)
        assert type(caught.value).__module__ == "e2b.exceptions"
