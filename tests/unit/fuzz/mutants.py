"""Inputs for parsers: good ones, bent. `HUTCH_FUZZ_EXAMPLES` says how many each test tries (`make fuzz`: many)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_BEGIN = re.compile(rb"[\n: ,{]")

EXAMPLES = int(os.environ.get("HUTCH_FUZZ_EXAMPLES", "60"))


def fuzzed(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test with as many examples as are wanted."""
    limits = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    return lambda test: limits(given(**strategies)(test))


@st.composite
def mutants(
    draw: st.DrawFn, seeds: Sequence[bytes] | st.SearchStrategy[bytes], words: Sequence[bytes], changes: int = 4
) -> bytes:
    """One of the seeds, or two in a row, with up to so many changes: pieces cut out, doubled, overwritten, put in; as
    often as not where a line or a field begins."""
    seed = seeds if isinstance(seeds, st.SearchStrategy) else st.sampled_from(seeds)
    data = bytearray(draw(seed))
    if draw(st.booleans()):
        data += draw(seed)
    for _ in range(draw(st.integers(0, changes))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        begins = [place.end() for place in _BEGIN.finditer(data)]
        if begins and draw(st.booleans()):
            at = draw(st.sampled_from(begins))
        end = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.integers(0, 4)):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = data[at:end]
            case 2:
                data[at:at] = draw(st.sampled_from(words))
            case 3:
                word = draw(st.sampled_from(words))
                data[at : at + len(word)] = word
            case 4 if at < len(data):
                data[at] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    edges = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[start:end] for start, end in zip([0, *edges], [*edges, len(data)], strict=True)]
