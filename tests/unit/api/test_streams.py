"""Streams, driven as uvicorn drives them: `receive` gives the disconnect, `send` may be slow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from hutch.api.encoding import exec_frames, server_sent
from hutch.api.streams import Stream, with_keepalive
from hutch.errors import GuestUnavailable
from hutch.model import Event, ExecFrame


class Source:
    """An endless stream that knows whether it has been let go."""

    def __init__(self, most: int | None = None) -> None:
        self.given = 0
        self.most = most
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            while self.most is None or self.given < self.most:
                self.given += 1
                yield b"x" * 1024
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            self.closed.set()


class Client:
    """The other side of an answer."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.messages: list[dict[str, Any]] = []
        self.scope = {"type": "http", "app": SimpleNamespace(state=SimpleNamespace(stopping=self.stopping))}

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reading.wait()
        self.messages.append(message)

    def ask(self, answer: Stream) -> asyncio.Task[None]:
        return asyncio.create_task(answer(self.scope, self.receive, self.send))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def complete(self) -> bool:
        return self.messages[-1].get("more_body") is False


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_source_is_let_go_when_the_client_goes() -> None:
    client, source = Client(), Source(most=3)
    answer = client.ask(Stream(aiter(source), media_type="text/plain"))
    await until(lambda: source.given == 3)
    client.gone.set()
    await asyncio.wait_for(answer, 1)
    assert source.closed.is_set() and not client.complete


async def test_source_is_let_go_when_a_client_that_does_not_read_goes() -> None:
    client, source = Client(), Source()
    client.reading.clear()
    answer = client.ask(Stream(aiter(source), media_type="text/plain"))
    await asyncio.sleep(0.01)
    client.gone.set()
    await asyncio.wait_for(answer, 1)
    await asyncio.wait_for(source.closed.wait(), 1) if source.given else None


async def test_client_that_does_not_read_holds_up_its_own_source_only() -> None:
    slow, slow_source, quick, quick_source = Client(), Source(), Client(), Source()
    answers = [
        slow.ask(Stream(aiter(slow_source), media_type="a/b")),
        quick.ask(Stream(aiter(quick_source), media_type="a/b")),
    ]
    await until(lambda: slow_source.given > 2)
    slow.reading.clear()
    before = slow_source.given
    await until(lambda: quick_source.given > before + 100)
    assert slow_source.given <= before + 2
    for client in (slow, quick):
        client.gone.set()
    await asyncio.wait_for(asyncio.gather(*answers), 1)
    assert slow_source.closed.is_set() and quick_source.closed.is_set()


async def test_cancelled_answer_lets_its_source_go() -> None:
    client, source = Client(), Source(most=1)
    answer = client.ask(Stream(aiter(source), media_type="text/plain"))
    await until(lambda: source.given == 1)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert source.closed.is_set()


async def frames(error: Exception | None = None) -> AsyncIterator[ExecFrame]:
    yield ExecFrame(type="stdout", offset=12, data="hello")
    if error:
        raise error
    await asyncio.Event().wait()


async def test_stop_of_the_server_ends_frames_with_a_retryable_error() -> None:
    client = Client()
    answer = client.ask(exec_frames(frames()))
    await until(lambda: b"hello" in client.body)
    client.stopping.set()
    await asyncio.wait_for(answer, 1)
    last = json.loads(client.body.splitlines()[-1])
    assert client.complete and last["type"] == "error" and last["error"]["code"] == "server_stopping"
    assert last["error"]["retryable"]


async def test_stop_before_the_first_byte_is_a_whole_answer_too() -> None:
    client = Client()
    client.reading.clear()
    answer = client.ask(exec_frames(frames()))
    await asyncio.sleep(0.01)
    client.stopping.set()
    await asyncio.sleep(0.01)
    client.reading.set()
    await asyncio.wait_for(answer, 1)
    assert [message["type"] for message in client.messages] == ["http.response.start", "http.response.body"]
    assert b"server_stopping" in client.body


@pytest.mark.parametrize(
    ("error", "code"), [(GuestUnavailable("it is gone"), "guest_unavailable"), (ValueError("secret"), "internal_error")]
)
async def test_error_in_mid_stream_is_the_last_frame(error: Exception, code: str) -> None:
    client = Client()
    await asyncio.wait_for(client.ask(exec_frames(frames(error))), 1)
    last = json.loads(client.body.splitlines()[-1])
    assert client.complete and last["error"]["code"] == code and "secret" not in last["error"]["detail"]


async def test_file_that_breaks_off_is_not_ended_as_if_it_were_whole() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise GuestUnavailable("it is gone")

    client = Client()
    await asyncio.wait_for(client.ask(Stream(broken(), media_type="a/b")), 1)
    assert client.body == b"half" and not client.complete


async def test_file_is_sent_to_its_end_though_the_server_stops() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0.05)
        yield b"two"

    client = Client()
    client.stopping.set()
    await asyncio.wait_for(client.ask(Stream(slow(), media_type="a/b")), 1)
    assert client.body == b"one two" and client.complete


async def test_server_sent_event_carries_its_offset_as_id() -> None:
    async def events() -> AsyncIterator[Event]:
        yield Event.model_validate({"offset": 7, "time": 0, "type": "output", "data": {"text": "two\nlines"}})

    client = Client()
    await asyncio.wait_for(client.ask(server_sent(events())), 1)
    blocks = client.body.decode().split("\n\n")
    assert blocks[0] == "retry: 1000"
    assert blocks[1].startswith("id: 7\nevent: output\ndata: {")
    assert json.loads(blocks[1].partition("data: ")[2])["data"]["text"] == "two\nlines"


async def test_silence_is_filled_and_nothing_is_lost() -> None:
    async def slow() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0.03)
            yield number

    seen = [item async for item in with_keepalive(slow(), 0.01)]
    assert None in seen and [item for item in seen if item is not None] == [0, 1, 2]


async def test_keepalive_lets_its_source_go_and_passes_its_errors_on() -> None:
    source = Source(most=1)
    kept = with_keepalive(aiter(source), 0.01)
    await anext(kept)
    await anext(kept)
    await kept.aclose()
    assert source.closed.is_set()

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise GuestUnavailable("gone")

    with pytest.raises(GuestUnavailable):
        [item async for item in with_keepalive(broken(), 1)]
