"""What the broker writes to a host: the values of secrets stand in it where they may, in requests for that host,
however others read them."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import strategies as st

from hutch.egress.broker.asking import Asking
from hutch.egress.broker.refusal import Refused
from hutch.egress.broker.swapping import Swapper, Use
from tests.unit.fuzz.mutants import cuts, fuzzed, mutants
from tests.unit.fuzz.test_fuzz_http import BODIES, FIRST, LINES, SEEDS, WORDS, by_h11, by_llhttp

SHOWN, REAL = b"ghp_placeholder0placeholder0", b"ghp_real0real0real0real0real"
OWN = [
    *(
        b"Authorization: Bearer " + SHOWN + b"\r\n",
        b"authorization: token " + SHOWN + b"\r\n",
        b"X: " + SHOWN + b"\r\n",
    ),
    *(b"Authorization: Bearer x, Bearer " + SHOWN + b"\r\n", b"Cookie: " + SHOWN + b"\r\n"),
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    made = b""
    for _ in range(draw(st.integers(1, 2))):
        lines = [draw(st.sampled_from(OWN)), *(draw(st.sampled_from(LINES)) for _ in range(draw(st.integers(0, 2))))]
        lines.insert(draw(st.integers(0, len(lines))), b"Host: good.test\r\n")
        made += draw(st.sampled_from(FIRST)) + b"".join(lines) + b"\r\n" + draw(st.sampled_from([*BODIES, SHOWN]))
    return made


@fuzzed(
    data=requests()
    | mutants(requests(), [*WORDS, *OWN, SHOWN, SHOWN[:9], SHOWN[9:]], changes=3)
    | mutants(SEEDS, [*WORDS, *OWN]),
    draw=st.data(),
)
def test_values_stand_where_they_may(data: bytes, draw: st.DataObject) -> None:
    swapper = Swapper([Use("TOKEN", SHOWN, REAL, frozenset(("bearer",)))], {SHOWN: "TOKEN"})
    asking, written, asked = Asking(lambda: swapper, "good.test", 80), b"", 0
    with suppress(Refused):
        for piece in draw.draw(cuts(data)):
            written += asking.feed(piece)
            while asking.current is not None and asking.whole and not asking.switched:
                asked += 1
                before, written = asking.waiting, written + asking.answered()
                if asking.current is None and asking.waiting == before:
                    break
    for line in written.split(b"\r\n"):
        # a line of a request may begin with the end of the body before it, and be no placeholder for that
        begins = line.endswith((b" HTTP/1.1", b" HTTP/1.0"))
        assert begins or SHOWN not in line, "a placeholder is swapped or stops everything"
        assert REAL not in line or line.lower().startswith(b"authorization: "), line
    for parser in (by_llhttp, by_h11):
        read = parser(written)
        assert len(read) <= asked + 1, (parser.__name__, written)
        assert not any(SHOWN in one.target + b"\n" + one.body for one in read), (parser.__name__, written)
        assert all(set(one.hosts) <= {b"good.test", b"GOOD.test:80", b"GOOD.test"} for one in read), (
            parser.__name__,
            written,
        )
