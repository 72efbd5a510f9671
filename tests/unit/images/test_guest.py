"""What of the guest goes into an image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hutch.errors import TemplateBuildFailed
from hutch.images import guest
from hutch.model import Recipe


def test_the_digest_follows_content_and_names_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "hutch_guest"
    shutil.copytree(guest.source(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    first = guest._digest_of(copy)
    assert guest.digest().startswith(first)
    (copy / "main.py").touch()
    (copy / "__pycache__").mkdir()
    (copy / "notes.txt").write_text("x")
    assert guest._digest_of(copy) == first
    (copy / "main.py").rename(copy / "other.py")
    second = guest._digest_of(copy)
    (copy / "other.py").write_text("pass")
    assert len({first, second, guest._digest_of(copy)}) == 3


async def test_a_guest_that_has_changed_on_disk_is_not_taken_for_the_one_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.digest()
    other = tmp_path / "hutch_guest"
    other.mkdir()
    (other / "main.py").write_text("pass")
    monkeypatch.setattr(guest, "source", lambda: other)
    resources = {"cpus": 1, "memory_mib": 512, "disk_mib": 1024, "pids": 128}
    recipe = Recipe.model_validate({"name": "mine", "resources": resources})

    async def log(line: str) -> None:
        raise AssertionError(line)

    with pytest.raises(TemplateBuildFailed, match="has changed since"):
        await guest.build_app(tmp_path / "layer", tmp_path, recipe, log)
