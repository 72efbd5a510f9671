"""The key never passes, wherever it is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.llm.redact import Redactor, redact

KEY = "sk-ant-aaab-secret"
PIECES = st.lists(st.sampled_from([KEY, KEY[:5], KEY[3:], "a", "aa", "sk-", "hello ", "\n", KEY + KEY]), max_size=12)


@given(parts=PIECES, cuts=st.lists(st.integers(0, 300), max_size=12))
def test_key_is_gone_and_nothing_else_is(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts).encode()
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    redactor = Redactor(KEY)
    out = b"".join(redactor.feed(text[start:end]) for start, end in itertools.pairwise(edges))
    out += redactor.end()
    assert KEY.encode() not in out
    assert out == text.replace(KEY.encode(), b"[redacted]")


def test_ordinary_text_is_not_held_back() -> None:
    redactor = Redactor(KEY)
    assert redactor.feed(b"event: ping\n\n") == b"event: ping\n\n"
    assert redactor.feed(b"ends in s") == b"ends in "
    assert redactor.feed(b"o it went") == b"so it went"


def test_error_that_quotes_parts_of_a_key_is_redacted_too() -> None:
    text = b'{"error":{"message":"Incorrect API key provided: sk-proj-********************cdEF. You can find"}}'
    assert b"cdEF" not in redact(text, KEY)
    assert b"Incorrect API key provided: [redacted]" in redact(text, KEY)


def test_what_ends_like_a_key_is_told_alike_whether_it_is_or_not() -> None:
    for end in (KEY[:12], KEY[:11] + "X", KEY[:1], "X"):
        redactor = Redactor(KEY)
        assert redactor.feed(f"it is {end}".encode()) + redactor.end() == f"it is {end}".encode()
