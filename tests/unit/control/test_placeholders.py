"""What stands for a secret looks like it, and tells nothing of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.control.placeholders import LEAST, new_placeholder


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("ghp_0123456789abcdefABCDEF0123456789abcd", r"ghp_\d{10}[a-z]{6}[A-Z]{6}\d{10}[a-z]{4}"),
        ("sk-ant-api03-Abcdefghij0123456789-xyZ", r"sk-ant-api03-[A-Z][a-z]{9}\d{10}-[a-z]{2}[A-Z]"),
        ("12345678", r"\d{8}[A-Za-z0-9]{12}"),
        ("bm90IGEgc2VjcmV0IGF0IGFsbA==", r"[A-Za-z0-9]{26}=="),
        ("correct-horse-battery-staple", r"[a-z]{7}-[a-z]{5}-[a-z]{7}-[a-z]{6}"),
    ],
)
def test_it_has_the_shape_of_the_value(value: str, shape: str) -> None:
    made = {new_placeholder(value) for _ in range(20)}
    assert len(made) == 20
    assert all(re.fullmatch(shape, each) for each in made)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=200))
def test_it_is_safe_wherever_a_value_may_stand(value: str) -> None:
    made = new_placeholder(value)
    assert re.fullmatch(r"[A-Za-z0-9._-]+=*", made)
    assert len(made) >= max(LEAST, len(value))
