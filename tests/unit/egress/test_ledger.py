"""What a gateway that is killed has left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.egress.llm import ledger as module
from hutch.egress.llm.ledger import Bound, Ledger
from hutch.model import LlmUsage


def bound(owner: str, tokens: int, day: str = "") -> Bound:
    return Bound(owner, day, LlmUsage(output_tokens=tokens, usd=tokens / 10))


def test_the_last_bound_of_each_is_found_again(tmp_path: Path) -> None:
    killed = Ledger(tmp_path / "l")
    assert killed.open() == []
    killed.write([bound("sbx_a", 1), bound("org", 5, "2026-11-22")])
    killed.write([bound("sbx_a", 7)])
    assert sorted(Ledger(tmp_path / "l").open(), key=lambda each: each.owner) == [
        bound("org", 5, "2026-11-22"),
        bound("sbx_a", 7),
    ]


@pytest.mark.parametrize("lost", range(2, 60, 7))
def test_a_write_that_was_cut_costs_itself_only(tmp_path: Path, lost: int) -> None:
    killed = Ledger(tmp_path / "l")
    killed.open()
    killed.write([bound("sbx_a", 1)])
    killed.write([bound("sbx_a", 2)])
    data = (tmp_path / "l").read_bytes()
    (tmp_path / "l").write_bytes(data[:-lost])
    assert Ledger(tmp_path / "l").open() == [bound("sbx_a", 1)]


def test_it_stays_small_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AT", 10_000)
    written = Ledger(tmp_path / "l")
    written.open()
    for each in range(300):
        written.write([bound("sbx_a", each), bound("sbx_gone", each)])
    written.forget("sbx_gone")
    for each in range(100):
        written.write([bound("sbx_a", 300 + each)])
    assert (tmp_path / "l").stat().st_size < 11_000
    assert Ledger(tmp_path / "l").open() == [bound("sbx_a", 399)]
    written.close()
    assert not (tmp_path / "l").exists()
