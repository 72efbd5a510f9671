"""Lines, whatever the cuts, with bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hutch.agents import MAX_LINE
from hutch.control.lines import Line, LineSplitter


@given(st.binary(max_size=200), st.lists(st.integers(1, 30), max_size=40))
def test_lines_do_not_depend_on_the_cuts_nor_on_restarts(data: bytes, cuts: list[int]) -> None:
    splitter, found, position = LineSplitter(), [], 0
    for cut in [*cuts, len(data) + 1]:
        found += splitter.feed(data[position : position + cut])
        position += cut
        splitter = LineSplitter(splitter.pending, splitter.skipped)  # as after a crash
    found += splitter.finish()
    *whole, rest = data.split(b"\n")
    assert found == [Line(line) for line in whole] + ([Line(rest)] if rest else [])


def test_a_gigabyte_in_one_line_takes_no_memory_and_is_told() -> None:
    splitter = LineSplitter()
    chunk = b"x" * (1 << 16)
    for _ in range((1 << 30) // len(chunk)):
        assert splitter.feed(chunk) == []
        assert len(splitter.pending) <= MAX_LINE + len(chunk)
    (line, following) = splitter.feed(b"end\nnext\n")
    assert len(line.data) < MAX_LINE
    assert len(line.data) + line.truncated == (1 << 30) + 3
    assert following == Line(b"next")


def test_the_longest_line_is_whole() -> None:
    assert LineSplitter().feed(b"x" * MAX_LINE + b"\n") == [Line(b"x" * MAX_LINE)]
