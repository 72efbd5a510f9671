"""Where a body ends, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.http1.framing import Chunked, Endless, Sized, framing_of
from hutch.http1.heads import BadHead


def feed(body: Chunked | Sized, data: bytes, sizes: list[int]) -> int:
    """How much of the data it took, given in pieces of these sizes."""
    taken, at = 0, 0
    for size in [*sizes, len(data)]:
        piece = data[at : at + max(size, 1)]
        if not piece or body.done:
            break
        found = body.take(piece)
        taken += found
        at += len(piece)
        if found < len(piece):
            break
    return taken


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    rest=st.binary(max_size=20),
    sizes=st.lists(st.integers(1, 17), max_size=30),
    trailer=st.sampled_from([b"", b"X-Sum: 1\r\n"]),
)
def test_chunks_end_where_they_end(chunks: list[bytes], rest: bytes, sizes: list[int], trailer: bytes) -> None:
    wire = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    body = Chunked()
    assert feed(body, wire + rest, sizes) == len(wire) and body.done


@pytest.mark.parametrize(
    "wire",
    [
        *(b"5\nhello\r\n", b"5\r\nhelloX\r\n", b"5\r\nhello\n\r", b"-1\r\n"),
        *(b"0x5\r\nhello\r\n", b"\r\n", b"5" * 600, b"g\r\n"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_chunks_that_could_be_read_in_two_ways_are_refused(wire: bytes, step: int) -> None:
    body = Chunked()
    with pytest.raises(BadHead):
        for at in range(0, len(wire), step):
            body.take(wire[at : at + step])


def test_trailers_are_bounded() -> None:
    body = Chunked()
    with pytest.raises(BadHead):
        body.take(b"0\r\n" + b"X: 1\r\n" * 10_000)


def test_sized_and_endless() -> None:
    body = Sized(5)
    assert body.take(b"abc") == 3 and not body.done and body.take(b"defg") == 2 and body.done
    assert isinstance(framing_of(None, without=None), Endless) and framing_of(None).done
