"""Snapshots as a tree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hutch.model import RuntimeManifest, SnapshotRecord
from hutch.model.lineage import ancestors, children, walk

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def snapshot(letter: str, parent: str | None = None) -> SnapshotRecord:
    return SnapshotRecord(
        id=name(letter),
        sandbox_id="sbx_a",
        parent=name(parent) if parent else None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=_LETTERS.index(letter)),
        runtime=RuntimeManifest(runtime="gvisor", version="1"),
    )


def name(letter: str) -> str:
    return "snp_" + letter * 22


def letters(records: list[SnapshotRecord]) -> str:
    return "".join(record.id[4] for record in records)


TREE = [
    snapshot("e", "b"),
    snapshot("b", "a"),
    snapshot("a"),
    snapshot("c", "a"),
    snapshot("d", "b"),
    snapshot("f", "z"),
]


def test_children_are_under_their_parent_and_strays_are_roots() -> None:
    found = children(TREE)
    assert {parent and parent[4]: letters(below) for parent, below in found.items()} == {
        None: "af",
        "a": "bc",
        "b": "de",
    }


def test_ancestors_lead_to_the_root() -> None:
    by_id = {record.id: record for record in TREE}
    assert letters(ancestors(by_id, name("e"))) == "ba"
    assert ancestors(by_id, name("a")) == []
    assert ancestors(by_id, name("f")) == []
    assert ancestors(by_id, name("x")) == []


def test_a_timeline_goes_down_one_branch_after_the_other() -> None:
    assert [(depth, record.id[4]) for depth, record in walk(TREE)] == [
        (0, "a"),
        (1, "b"),
        (2, "d"),
        (2, "e"),
        (1, "c"),
        (0, "f"),
    ]


def test_a_loop_does_not_hang() -> None:
    loop = {record.id: record for record in (snapshot("a", "b"), snapshot("b", "a"))}
    assert letters(ancestors(loop, name("a"))) == "b"


@given(st.lists(st.integers(-1, 20), max_size=20))
def test_every_snapshot_of_a_tree_is_walked_once_after_its_parent(parents: list[int]) -> None:
    records = [snapshot(_LETTERS[n], _LETTERS[parent] if 0 <= parent < n else None) for n, parent in enumerate(parents)]
    order = [record.id for _, record in walk(reversed(records))]
    assert sorted(order) == sorted(record.id for record in records)
    for record in records:
        assert record.parent is None or order.index(record.parent) < order.index(record.id)


@pytest.mark.parametrize(
    "id", ["snp_short", "sbx_" + "a" * 22, "snp_" + "A" * 22, "../" + "a" * 23, "snp_" + "a" * 22 + "\n"]
)
def test_an_id_that_could_be_a_path_is_not_an_id(id: str) -> None:
    with pytest.raises(ValidationError):
        SnapshotRecord.model_validate(snapshot("a").model_dump() | {"id": id})
