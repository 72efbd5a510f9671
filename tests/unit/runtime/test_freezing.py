"""A freeze that does not come to its end leaves nothing, and only a finished one bears the snapshot's name."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from hutch.runtime import freezing
from hutch.runtime.freezing import NOTE, Freezing, find_abandoned, forget
from tests.unit.runtime.test_manifest import MANIFEST_OF


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A sandbox's directory."""
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def killed(freeze: Freezing) -> None:
    """What the end of its process does to a freeze."""
    os.close(freeze.lock)


def test_a_finished_freeze_is_a_snapshot_and_nothing_else(box: Path, tmp_path: Path) -> None:
    freeze = Freezing.begin(box, tmp_path / "snap")
    (freeze.partial / "pages.img").write_bytes(b"abc")
    assert freeze.files() == {"pages.img": 3}
    assert not (tmp_path / "snap").exists()
    freeze.seal(MANIFEST_OF)
    freeze.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box", "snap"]
    assert sorted(path.name for path in (tmp_path / "snap").iterdir()) == ["manifest.json", "pages.img"]
    assert list(box.iterdir()) == []


def test_everything_is_on_the_disk_before_it_has_its_name(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = freezing._sync, os.rename
    monkeypatch.setattr(freezing, "_sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(os, "rename", lambda old, new: (done.append("rename"), rename(old, new)))
    freeze = Freezing.begin(box, tmp_path / "snap")
    (freeze.partial / "pages.img").write_bytes(b"abc")
    freeze.seal(MANIFEST_OF)
    freeze.end()
    assert set(done[:2]) == {"pages.img", "manifest.json"}
    assert done[2:] == [".snap.partial", "rename", tmp_path.name]


def test_an_undone_freeze_leaves_nothing(box: Path, tmp_path: Path) -> None:
    freeze = Freezing.begin(box, tmp_path / "snap")
    (freeze.partial / "pages.img").write_bytes(b"abc")
    freeze.clear()
    assert list(freeze.partial.iterdir()) == []
    freeze.undo()
    freeze.end()
    assert list(tmp_path.iterdir()) == [box] and list(box.iterdir()) == []


def test_a_second_freeze_is_refused_and_does_the_first_no_harm(box: Path, tmp_path: Path) -> None:
    first = Freezing.begin(box, tmp_path / "snap")
    for name in ("snap", "other"):
        with pytest.raises(BlockingIOError, match="already"):
            Freezing.begin(box, tmp_path / name)
    assert first.partial.is_dir() and (box / NOTE).read_text() == str(first.partial)
    first.end()


def test_what_is_there_is_never_written_over(box: Path, tmp_path: Path) -> None:
    (tmp_path / "snap").mkdir()
    with pytest.raises(FileExistsError):
        Freezing.begin(box, tmp_path / "snap")
    assert list(box.iterdir()) == []


def test_a_freeze_that_cannot_begin_leaves_no_note(box: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Freezing.begin(box, tmp_path / "nowhere" / "snap")
    assert list(box.iterdir()) == []


def test_the_freeze_of_a_killed_daemon_is_found_and_its_rest_with_it(box: Path, tmp_path: Path) -> None:
    assert find_abandoned(box, 0) is None
    killed(Freezing.begin(box, tmp_path / "snap"))
    found = find_abandoned(box, 0)
    assert found is not None and found.partial == tmp_path / ".snap.partial"
    found.undo()
    found.end()
    assert list(tmp_path.iterdir()) == [box] and list(box.iterdir()) == []


@pytest.mark.parametrize("written", ["", str(Path("/etc"))])
def test_a_torn_note_makes_nobody_remove_anything_else(box: Path, written: str) -> None:
    (box / NOTE).write_text(written)
    (box / "mine").mkdir()
    found = find_abandoned(box, 0)
    assert found is not None
    found.undo()
    found.end()
    assert [path.name for path in box.iterdir()] == ["mine"] and Path("/etc").is_dir()


def test_who_finds_it_waits_for_commands_that_still_work_on_it(box: Path, tmp_path: Path) -> None:
    freeze = Freezing.begin(box, tmp_path / "snap")
    with pytest.raises(TimeoutError):
        find_abandoned(box, 0.05)
    threading.Timer(0.2, killed, [freeze]).start()
    start = time.monotonic()
    found = find_abandoned(box, 10)
    assert found is not None and time.monotonic() - start > 0.15
    found.end()


def test_who_finds_it_waits_for_the_sandboxs_kernel_to_end_its_save(box: Path, tmp_path: Path) -> None:
    freeze = Freezing.begin(box, tmp_path / "snap")
    file = os.open(freeze.partial / "checkpoint.img", os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    killed(freeze)
    with pytest.raises(TimeoutError):
        find_abandoned(box, 0.05)
    os.close(file)
    found = find_abandoned(box, 0)
    assert found is not None
    found.end()


def test_who_is_given_the_lock_cannot_write_to_the_note(box: Path, tmp_path: Path) -> None:
    freeze = Freezing.begin(box, tmp_path / "snap")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(freeze.lock, b"/etc/x.partial")
    freeze.end()


def test_of_a_dead_sandbox_it_is_forgotten_at_once(box: Path, tmp_path: Path) -> None:
    freeze = Freezing.begin(box, tmp_path / "snap")
    forget(box)
    forget(box)
    assert list(tmp_path.iterdir()) == [box] and list(box.iterdir()) == []
    freeze.end()
