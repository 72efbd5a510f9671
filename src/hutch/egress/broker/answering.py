"""The answers on one connection: passed on without the values of secrets."""

from __future__ import annotations

from hutch.egress.broker.refusal import Refused
from hutch.egress.broker.seeking import Mask, MaskedStream
from hutch.http1.content import LAST_CHUNK, Content, chunk
from hutch.http1.framing import framing_of
from hutch.http1.heads import Answer, BadHead, Fields, Request, dump_answer, length_of, parse_answer, values

MAX_HEAD = 64 << 10
MAX_VALUES = 256
_IDENTITY = {b"", b"identity"}


class Answering:
    """`feed` gives what goes to the sandbox. `values`: what must not be in it; more may be added while it goes on."""

    def __init__(self, values: list[bytes]) -> None:
        self._values = values
        self._mask = Mask(values)
        self._buffer = bytearray()
        self._request: Request | None = None
        self._body: Content | None = None
        self._stream: MaskedStream
        self._last = self._endless = False
        self.strict = False
        """A secret was sent on this connection: what cannot be looked through is refused."""
        self.begun = False
        """Something of the answer to the current request has been passed on."""
        self.done = False
        """It has come to its end."""
        self.switched = False
        """Another protocol is spoken from here on."""

    @property
    def under_way(self) -> bool:
        """Whether a part of an answer has been passed on, so that no other can be given in its place."""
        return self.switched or (self.begun and not self.done)

    @property
    def last(self) -> bool:
        """Whether no other answer can follow."""
        return self._last

    @property
    def holding(self) -> bool:
        """Whether some bytes wait for `release`."""
        return (self.switched or self._body is not None) and self._stream.holding

    def expect(self, request: Request) -> None:
        """The answer to this comes next."""
        self._request, self.begun, self.done = request, False, False

    def add(self, value: bytes) -> None:
        """This must not be in it either. (Of more forms than that one sandbox may well be the author, who has many
        names for itself: what all of them have in common is among the first.)"""
        if value not in self._values and len(self._values) < MAX_VALUES:
            self._values.append(value)

    def feed(self, data: bytes) -> bytes:
        """Raises `Refused`."""
        self._buffer += data
        passed = bytearray()
        try:
            while self._buffer and (passing := self._step()) is not None:
                passed += passing
        except BadHead as error:
            raise Refused(502, f"the host's answer is not understood: {error}") from error
        self.begun = self.begun or bool(passed)
        return bytes(passed)

    def release(self) -> bytes:
        """What is held back, when the host says nothing more for now."""
        held = self._stream.release() if self.holding else b""
        return chunk(held) if self._body is not None and self._body.chunked else held

    def end(self) -> bytes | None:
        """The host says no more: what was held back. None when its answer was cut off."""
        if self.switched or (self._endless and self._body is not None):
            self._body, self.done = None, True
            return self._stream.release()
        return None if self._request is not None and not self.done else b""

    def _step(self) -> bytes | None:
        if self.switched:
            data = bytes(self._buffer)
            self._buffer.clear()
            return self._stream.feed(data)
        if self._body is not None:
            return self._content(self._body)
        if self._request is None or self.done:
            raise Refused(502, "the host answers what nobody has asked")
        return self._head(self._request)

    def _head(self, request: Request) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n")
        if (end if end >= 0 else len(self._buffer)) > MAX_HEAD:
            raise Refused(502, "the head of the host's answer is too long")
        if end < 0:
            return None
        answer = parse_answer(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        fields = [(self._mask.name(key), self._mask.whole(value)) for key, value in answer.fields]
        head = dump_answer(answer.status, self._mask.whole(answer.reason), fields)
        if answer.status == 101:
            self._switch(request)
        elif answer.status >= 200:
            self._begin(request, answer)
        return head

    def _switch(self, request: Request) -> None:
        if not request.upgrades:
            raise Refused(502, "the host speaks another protocol than it was asked for")
        self.switched, self._stream = True, self._mask.stream()

    def _begin(self, request: Request, answer: Answer) -> None:
        empty = request.method == b"HEAD" or answer.status in (204, 304)
        length = length_of(answer.fields)
        self._check_coding(answer.fields, empty)
        self._endless = length is None and not empty
        self._last = self._endless or not answer.keeps_alive
        framing = framing_of(0 if empty else length, without=None)
        self._stream = self._mask.stream()
        self._body, self.done = (None, True) if framing.done else (Content(framing), False)

    def _check_coding(self, fields: Fields, empty: bool) -> None:
        codings = {value.lower() for value in values(fields, b"content-encoding")}
        if self.strict and not empty and not codings <= _IDENTITY:
            raise Refused(502, "the host compresses its answer although it was asked not to: a value could be in it")

    def _content(self, body: Content) -> bytes:
        content, taken = body.feed(bytes(self._buffer))
        del self._buffer[:taken]
        content = self._stream.feed(content)
        if body.done:
            content += self._stream.release()
            self._body, self.done = None, True
        if not body.chunked:
            return content
        return chunk(content) + LAST_CHUNK * body.done
