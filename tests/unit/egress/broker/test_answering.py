"""What comes from a host: all of it, but for values."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.broker.answering import Answering
from hutch.egress.broker.forms import forms_of
from hutch.egress.broker.refusal import Refused
from hutch.http1.heads import Request

REAL = b"ghp_real0real0real0real0real"
MASKED = b"[redacted]" + b"*" * (len(REAL) - 10)
GET = Request(b"GET", b"/", 1, [])


def answering(request: Request = GET) -> Answering:
    made = Answering([REAL])
    made.expect(request)
    return made


def fed(part: Answering, data: bytes, size: int) -> bytes:
    return b"".join(part.feed(data[at : at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 3, 29, 1000])
def test_values_are_covered_however_they_are_cut(size: int) -> None:
    body = b"<" + REAL + b"><" + REAL[:-1] + b"><" + REAL
    head = b"HTTP/1.1 200 OK\r\nX-Told: " + REAL + b"\r\n"
    covered = b"<" + MASKED + b"><" + REAL[:-1] + b"><" + MASKED
    part = answering()
    came = fed(part, head + b"Content-Length: %d\r\n\r\n" % len(body) + body, size)
    assert came.endswith(b"\r\n\r\n" + covered) and b"X-Told: " + MASKED in came and part.done
    chunks = b"".join(b"5;x=y\r\n%s\r\n" % body[at : at + 5] for at in range(0, len(body) // 5 * 5, 5))
    rest = body[len(body) // 5 * 5 :]
    chunks += b"%x\r\n%s\r\n" % (len(rest), rest) + b"0\r\nTrailer: x\r\n\r\n"
    part = answering()
    came = fed(part, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, size)
    assert REAL not in came and part.done and unchunked(came.partition(b"\r\n\r\n")[2]) == covered
    part = answering()
    came = fed(part, head + b"\r\n" + body, size)
    assert not part.done and part.last
    assert (came + (part.end() or b"")).endswith(covered)


@pytest.mark.parametrize(
    "told",
    [
        b"HTTP/1.1 404 no " + REAL + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://x.test/?t=" + REAL + b"&u\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + REAL + b"\r\n" + REAL.upper() + b": x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nLink: " + REAL + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + REAL + b"=y\r\nx\r\n0\r\nT: " + REAL + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 28\r\n\r\n" + REAL,
    ],
    ids=["reason", "location", "cookie and name", "early", "extension and trailer", "not compressed at all"],
)
def test_no_place_of_an_answer_carries_a_value(told: bytes) -> None:
    assert REAL.lower() not in answering().feed(told).lower()


@given(user=st.binary(max_size=20), value=st.binary(min_size=12, max_size=60))
def test_a_value_is_found_in_base64_behind_whatever_name(user: bytes, value: bytes) -> None:
    said = base64.b64encode(user.replace(b":", b"") + b":" + value)
    forms = [form for form in forms_of(value, {"basic"}) if form != value]
    found = max((form for form in forms if form in said), key=len)
    assert len(found) * 6 > len(value) * 8 - 12, "all but some bits at its ends"
    assert len(forms_of(value, {"bearer"})) == 1


def unchunked(data: bytes) -> bytes:
    content = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if size == b"0":
            assert data == b"\r\n"
            return content
        content, data = content + data[: int(size, 16)], data[int(size, 16) + 2 :]


@pytest.mark.parametrize("head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked", b"X: endless"])
@given(data=st.data())
def test_how_much_of_a_guess_is_right_shows_in_nothing(head: bytes, data: st.DataObject) -> None:
    """A guest that has a host say what it likes must not learn a value by what is passed on when."""
    guess = st.integers(0, len(REAL) - 1).flatmap(lambda size: st.just(REAL[:size]))
    pieces = data.draw(st.lists(guess.filter(bool), max_size=6))
    paused = data.draw(st.lists(st.booleans(), min_size=6, max_size=6))
    told = []
    for said in (pieces, [b"?" * len(piece) for piece in pieces]):
        if REAL in b"".join(said):
            return
        part, steps = answering(), list[tuple[int, bool]]()
        part.feed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        passed = b""
        for piece, pause in zip(said, paused, strict=False):
            wire = b"%x\r\n%s\r\n" % (len(piece), piece) if b"chunked" in head else piece
            came = part.feed(wire) + (part.release() if pause else b"")
            steps.append((len(came), part.holding))
            passed += came
        rest = part.feed(b"0\r\n\r\n") if b"chunked" in head else part.release()
        passed = unchunked(passed + rest) if b"chunked" in head else passed + rest
        assert passed == b"".join(said)
        told.append(steps)
    assert told[0] == told[1]


@pytest.mark.parametrize("cut", [1, 12, len(REAL) - 1])
def test_of_a_value_that_a_host_says_in_two_goes_the_rest_is_covered(cut: int) -> None:
    part = answering()
    part.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    came = part.feed(b"<" * 100 + REAL[:cut]) + part.release()
    came += part.feed(REAL[cut:] + b">") + (part.end() or b"")
    assert came == b"<" * 100 + REAL[:cut] + MASKED[cut:] + b">"


@given(st.binary(max_size=200), st.integers(1, 50))
def test_anything_else_comes_as_it_is(body: bytes, size: int) -> None:
    sent = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    part = answering()
    assert fed(part, sent, size) == sent and part.done


@pytest.mark.parametrize(
    ("answer", "request_"),
    [
        (b"HTTP/1.1 204 No\r\n\r\n", GET),
        (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", GET),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Request(b"HEAD", b"/", 1, [])),
    ],
)
def test_answers_without_a_body(answer: bytes, request_: Request) -> None:
    part = answering(request_)
    assert part.feed(answer) == answer and part.done and not part.last


def test_interim_answers_and_other_protocols() -> None:
    part = answering()
    part.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not part.done
    with pytest.raises(Refused):
        part.feed(b"HTTP/1.1 101 Switching\r\n\r\n")
    asked = Request(b"GET", b"/", 1, [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")])
    part = answering(asked)
    came = part.feed(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n" + REAL + b"x") + part.release()
    assert part.switched and came.endswith(MASKED + b"x")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"hello",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000,
    ],
)
def test_answers_that_cannot_be_looked_through(answer: bytes) -> None:
    part = answering()
    part.strict = True
    with pytest.raises(Refused):
        part.feed(answer + b"\r\n\r\n")
    if b"gzip" in answer:  # before a secret was sent nothing can be in it
        assert answering().feed(answer).endswith(b"x")


def test_an_answer_that_is_cut_off_is_not_whole() -> None:
    part = answering()
    part.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi")
    assert part.end() is None
