"""The host's switch is on while anybody hurries, and then as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.runtime.hurry import Hurry


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    return path


def test_it_is_on_until_the_last_one_is_done(tmp_path: Path, switch: Path) -> None:
    hurry = Hurry(tmp_path / "note", switch)
    first, second = hurry.on(), hurry.on()
    with first:
        with second:
            assert switch.read_text() == "1"
        assert switch.read_text() == "1"
    assert switch.read_text() == "0" and not (tmp_path / "note").exists()


def test_what_is_on_by_another_stays_on(tmp_path: Path, switch: Path) -> None:
    switch.write_text("1\n")
    with Hurry(tmp_path / "note", switch).on():
        pass
    assert switch.read_text() == "1\n"


def test_what_a_killed_daemon_has_left_on_the_next_one_puts_off(tmp_path: Path, switch: Path) -> None:
    Hurry(tmp_path / "note", switch).on().__enter__()
    hurry = Hurry(tmp_path / "note", switch)
    with hurry.on():
        hurry.settle()
        assert switch.read_text() == "1"
    assert switch.read_text() == "0"
    Hurry(tmp_path / "note", switch).on().__enter__()
    Hurry(tmp_path / "note", switch).settle()
    assert switch.read_text() == "0"


@pytest.mark.parametrize("missing", ["switch", "note"])
def test_where_it_cannot_be_put_on_the_work_is_done_all_the_same(tmp_path: Path, switch: Path, missing: str) -> None:
    note = tmp_path / "note"
    if missing == "switch":
        switch.unlink()
    else:
        note = tmp_path / "nowhere" / "note"
    with Hurry(note, switch).on():
        done = True
    assert done and (missing == "switch" or switch.read_text() == "0\n")
