"""The outline of JSON that is too long to be kept."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.llm.outline import Outline

SIGNS = 'ab"\\/ \n\u00e9\U0001f600'
TEXTS = st.text(SIGNS, max_size=40)
LONG = TEXTS.filter(bool).map(lambda text: text * 300)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXTS | LONG,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def outlined(data: bytes, cuts: list[int], limit: int = 1 << 20) -> Outline:
    edges = [0, *sorted(each % (len(data) + 1) for each in cuts), len(data)]
    outline = Outline(limit)
    for start, end in itertools.pairwise(edges):
        outline.feed(data[start:end])
    return outline


def same(shown: Any, whole: Any) -> bool:
    if isinstance(whole, dict):
        return isinstance(shown, dict) and len(shown) == len(whole) and all(map(same, shown.values(), whole.values()))
    if isinstance(whole, list):
        return isinstance(shown, list) and len(shown) == len(whole) and all(map(same, shown, whole))
    if isinstance(whole, str):
        shown, whole = (re.sub(" +", " ", text) for text in (shown, whole))
        begin = shown[:-3].rstrip("\ud83d")  # half a sign may be left of the last one
        return shown == whole or (shown.endswith("...") and whole.startswith(begin))
    return bool(shown == whole)


CUTS = st.lists(st.integers(0, 10**6), max_size=30)


@given(value=VALUES, cuts=CUTS, plain=st.booleans(), indent=st.sampled_from([None, 3]))
def test_the_outline_is_the_same_however_it_is_cut(
    value: Any, cuts: list[int], plain: bool, indent: int | None
) -> None:
    data = json.dumps(value, ensure_ascii=plain, indent=indent).encode()
    outline = outlined(data, cuts)
    assert same(json.loads(outline.end()), value) and not outline.cut


def test_a_name_is_told_however_it_is_written() -> None:
    name = "".join(f"\\u{ord(sign):04x}" for sign in "background")
    body = b'{"' + name.encode() + b'": true, "x": "' + b"y" * 5000 + b'"}'
    for cuts in ([], list(range(0, 5000, 3))):
        assert json.loads(outlined(body, cuts).end()) == {"background": True, "x": "y" * 96 + "..."}


def test_rows_of_numbers_are_left_out() -> None:
    rows = {"data": [{"embedding": [0.25, -1e-9] * 500, "index": n} for n in range(3)], "usage": {"prompt_tokens": 7}}
    for cuts in ([], list(range(0, 20_000, 7))):
        assert json.loads(outlined(json.dumps(rows).encode(), cuts).end()) == {
            "data": [{"embedding": [None], "index": n} for n in range(3)],
            "usage": {"prompt_tokens": 7},
        }
    mixed = b'{"a":' + b" " * 500 + b"1, \n" + b" " * 500 + b'"b":[' + b"1," * 100 + b'"x",' + b"2," * 100 + b"[3]]}"
    assert json.loads(outlined(mixed, []).end()) == {"a": 1, "b": [None, "x", None, [3]]}


def test_it_is_bounded_and_its_end_is_kept() -> None:
    piece = b'["' + b"\\n" * 30_000 + b'",' + b"1.5," * 30_000 + b"[],{},"
    tracemalloc.start()
    try:
        outline = Outline(1 << 20)
        outline.feed(b'{"a":')
        for _ in range(60):
            outline.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 7 << 20, "ten megabytes, of which little is kept"
        assert not outline.cut and outline.held < 60_000
        for _ in range(100):
            outline.feed(b"[]," * 10_000)
        assert outline.cut and outline.held <= 1 << 20
        outline.feed(b'"usage":{"input_tokens":1}}')
        assert outline.end().endswith(b'"usage":{"input_tokens":1}}')
    finally:
        tracemalloc.stop()
