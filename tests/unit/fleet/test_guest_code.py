"""What the code interpreter of a sandbox says is a stranger's word: read in bounds, and checked."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest

from hutch.errors import GuestUnavailable
from hutch.fleet import guest_code
from hutch.fleet.guest_code import MAX_VALUES, _frame, values
from hutch.fleet.transport import Answer
from hutch.model import CodeFrame


class Said:
    """An answer with this body, in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for piece in self._pieces:
            yield piece


async def frames(*pieces: bytes) -> list[CodeFrame]:
    return [frame async for frame in guest_code._frames(cast(Answer, Said(*pieces)))]


def lines(*said: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in said)


END = {"type": "end_of_execution"}


async def test_all_that_it_says() -> None:
    body = lines(
        {"type": "number_of_executions", "execution_count": 3},
        {"type": "stdout", "text": "a", "timestamp": "now"},
        {"type": "keepalive"},
        {"type": "result", "text": "1", "json": {"a": None}, "extra": {"x/y": 1}, "is_main_result": True},
        {"type": "error", "name": "E", "value": "v", "traceback": "t"},
        {"type": "of a later version"},
        END,
    )
    for size in (1, 7, len(body)):
        found = await frames(*(body[at : at + size] for at in range(0, len(body), size)))
        kinds = ["count", "stdout", "keepalive", "result", "error", "keepalive", "end"]
        assert [frame.type for frame in found] == kinds
        result = found[3].result
        assert result is not None and result.main and result.json_ == {"a": None} and result.extra == {"x/y": 1}
        assert found[3].model_dump(exclude_none=True, by_alias=True)["result"]["json"] == {"a": None}


@pytest.mark.parametrize(
    "said",
    [
        [b"nonsense\n"],
        [b"[1]\n"],
        [b'{"type": "stdout"}\n'],
        [b'{"type": "result", "png": 7}\n'],
        [b'{"type": "result", "unknown": "x"}\n'],
        [b'{"type": "number_of_executions", "execution_count": "many"}\n'],
        [b"[" * 100_000 + b"\n"],
        [lines({"type": "stdout", "text": "cut"})],
        [],
    ],
)
async def test_nonsense_and_a_lost_end_are_told(said: Sequence[bytes]) -> None:
    with pytest.raises(GuestUnavailable):
        await frames(*said)


async def test_a_line_without_end_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_code, "_MAX_LINE", 1 << 20)
    long = [b"x" * (1 << 19)] * 5
    found = await frames(*long, b"\n" + lines(END))
    assert [frame.type for frame in found] == ["gap", "end"]


def test_a_line_of_millions_of_values_is_not_read() -> None:
    """Two bytes of `[]` are sixty here, and a microsecond in which the server does nothing else."""
    many = b'{"type":"result","json":[' + b",".join([b"[]"] * (MAX_VALUES // 2 + 10)) + b"]}"
    assert _frame(many).type == "gap"
    text = ",[{" * MAX_VALUES
    assert _frame(json.dumps({"type": "stdout", "text": text}).encode()).text == text
    assert values(b'["' + b'\\"' * (4 << 20) + b"," * 5000) == 2  # a text without an end, once
    assert values(b'{"a":1,"b":[]}') == 3
