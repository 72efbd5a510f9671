"""The host's switch for large pages is put to `advise` where nobody has decided otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.runtime import huge_pages

CHOICES = "always within_size advise never deny force"


@pytest.mark.parametrize("chosen", CHOICES.split())
def test_only_the_default_is_changed(tmp_path: Path, chosen: str) -> None:
    switch = tmp_path / "shmem_enabled"
    before = CHOICES.replace(chosen, f"[{chosen}]")
    switch.write_text(before)
    huge_pages.allow(switch)
    assert switch.read_text() == ("advise" if chosen == "never" else before)


def test_a_kernel_without_it_is_left_alone(tmp_path: Path) -> None:
    huge_pages.allow(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
