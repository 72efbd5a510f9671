"""One connection of a sandbox to a host that a secret is for: both of its sides, and what passes between them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic, thread_time
from typing import Any, Protocol, cast

from hutch.egress.broker.answering import Answering
from hutch.egress.broker.asking import Asking
from hutch.egress.broker.grants import Granted
from hutch.egress.broker.refusal import Refused
from hutch.http1.heads import dump_answer
from hutch.network.resetting import reset

CONNECT_SECONDS = 10.0
_HIGH_WATER = 64 << 10
_REST = 0.05
"""Seconds in which a sandbox that has used up its share is not read, nor what a host says to it."""
_HOLD = 0.01
"""Seconds for which the last bytes of what a host says wait for the next: a value may be cut between them."""
_LINGER = 1.0
"""Seconds between an answer that comes early and the end of its connection."""


class Reporter(Protocol):
    """Who is told what was done with secrets, and what was not."""

    def report(self, **entry: Any) -> None:
        """The fields of an entry of the egress log."""

    async def token(self, sandbox: str, audience: str) -> tuple[str, float]:
        """Its identity token for somebody, and until when it holds (Unix time). Raises `Refused`."""


@dataclass(frozen=True)
class Place:
    """Where the sandbox wanted to go: a name, and the address that it was told for it."""

    name: str
    address: str
    port: int


class Session(asyncio.Protocol):
    """The side of the sandbox, decrypted. The host's side is `_Outward`. `trusted`: who vouches for the host. None:
    nothing is encrypted; then no value is sent, and placeholders are only looked for."""

    def __init__(self, granted: Granted, place: Place, trusted: ssl.SSLContext | None, reporter: Reporter) -> None:
        self._granted, self._place, self._reporter = granted, place, reporter
        self._loop = asyncio.get_running_loop()
        if trusted is not None:
            self._asking = Asking(lambda: granted.swapper(place.name, place.port), place.name, place.port)
        else:
            self._asking = Asking(granted.watcher, None, place.port, readable=bool(granted.masked(place.name)))
        self._answering = Answering(list(granted.masked(place.name)))
        self._inward: asyncio.Transport | None = None
        self._outward: asyncio.Transport | None = None
        self._pending = bytearray()
        self._ended = self._spoken = False
        self._unreached: Refused | None = None
        self._holds: set[str] = set()
        """Why the sandbox is not read just now."""
        self._full = False
        """The sandbox takes nothing more just now."""
        self._early = bytearray()
        """What has come while identity tokens are fetched."""
        self._fetching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._release: asyncio.TimerHandle | None = None
        self._opening = self._loop.create_task(self._connect(trusted))
        granted.begin(self)

    @property
    def name(self) -> str:
        """Of the host."""
        return self._place.name

    def keep_out(self, values: Iterable[bytes]) -> None:
        """These must not come in either, from here on."""
        for value in values:
            self._answering.add(value)

    # ---- the sandbox

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inward = cast(asyncio.Transport, transport)
        self._inward.set_write_buffer_limits(high=_HIGH_WATER)
        if self._ended:
            reset(transport)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._spoken = True
        if self._lacks(data):
            return
        began = thread_time()
        try:
            passed = self._asking.feed(data)
            if self._unreached is not None:
                raise self._unreached
        except Refused as refused:
            self._refuse(refused)
            return
        self._went(passed)
        if self._asking.waiting > _HIGH_WATER:
            self.hold("turn")
        self._used(thread_time() - began)

    def _lacks(self, data: bytes) -> bool:
        """Whether a request that begins has to wait for identity tokens: what came of it does, too."""
        if self._fetching is None:
            before = self._asking.current is None
            lacking = self._granted.lacking(self._place.name, self._place.port) if before else []
            if not lacking:
                return False
            self.hold("token")
            self._fetching = self._loop.create_task(self._fetch(lacking))
        self._early += data
        return True

    async def _fetch(self, lacking: list[str]) -> None:
        try:
            await self._granted.tokens.fetch(lacking, partial(self._reporter.token, self._granted.id))
        except Refused as refused:
            self._refuse(refused)
            return
        self._fetching = None
        early = bytes(self._early)
        self._early.clear()
        self.go_on("token")
        self.data_received(early)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._full = True
        self._mute()

    def resume_writing(self) -> None:
        self._full = False
        self._hear()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError) and not self._spoken and not self._ended:
            self.distrusted(exc)
        self.end()

    def distrusted(self, error: Exception) -> None:
        """The sandbox's program does not take our certificate."""
        said = (error.reason if isinstance(error, ssl.SSLError) else None) or type(error).__name__
        reason = (
            f"the program does not accept the broker's certificate ({said.lower().replace('_', ' ')}): it trusts "
            "authorities of its own choice"
        )
        self._report(allowed=False, reason=reason)

    # ---- the host

    def opened(self, transport: asyncio.Transport) -> None:
        """The host has shown its certificate."""
        if self._ended:
            reset(transport)
            return
        self._outward = transport
        self.go_on("opening")
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        if self._pending:
            transport.write(bytes(self._pending))
            self._pending.clear()

    def came(self, data: bytes) -> None:
        """The host says something."""
        if self._ended or self._inward is None:
            return
        began = thread_time()
        self._answering.strict = self._answering.strict or self._granted.wary(self._place.name)
        try:
            passed = self._answering.feed(data)
            self._schedule()
            if passed:
                self._inward.write(passed)  # may pause
            if self._answering.switched and not self._asking.switched:
                self._asking.switched = True
                self._went(self._asking.feed(b""))
            elif self._answering.done:
                self._next()
        except Refused as refused:
            self._refuse(refused)
            return
        self._used(thread_time() - began)

    def lost(self, exc: Exception | None) -> None:
        """The host has ended the connection."""
        if self._ended or self._inward is None:
            self.end()
            return
        rest = self._answering.end() if exc is None else None
        if rest is None:
            self._refuse(Refused(502, "the host has ended the connection in the middle of its answer"))
            return
        if rest:
            self._inward.write(rest)
        self._close()

    def hold(self, why: str) -> None:
        """Do not read the sandbox, until `go_on` says the same."""
        self._holds.add(why)
        if self._inward is not None:
            self._inward.pause_reading()

    def go_on(self, why: str) -> None:
        """That is no reason any more."""
        self._holds.discard(why)
        if self._inward is not None and not self._holds and not self._inward.is_closing():
            self._inward.resume_reading()

    def end(self) -> None:
        """Cut both sides."""
        self._ended = True
        self._granted.end(self)
        if self._timer is not None:
            self._timer.cancel()
        self._unschedule()
        self._opening.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
        for transport in (self._outward, self._inward):
            if transport is not None:
                transport.abort()

    # ---- between them

    def _went(self, passed: bytes) -> None:
        for swapped in self._asking.swapped:
            self._answering.expect(swapped.request)
            self.keep_out(swapped.told)
            for name in sorted(swapped.used):
                self._answering.strict = True
                self._granted.sent(name)
                self._report(allowed=True, secret=name, reason=f"{name} was sent")
        self._asking.swapped.clear()
        if not passed:
            return
        if self._outward is not None:
            self._outward.write(passed)
            return
        self._pending += passed
        if len(self._pending) > _HIGH_WATER:
            self.hold("opening")

    def _next(self) -> None:
        """An answer has come to its end. Raises `Refused`."""
        request = self._asking.current
        if self._answering.last or not self._asking.whole or request is None or not request.keeps_alive:
            self._close(more=not self._asking.whole)
            return
        self._went(self._asking.answered())
        if self._asking.waiting <= _HIGH_WATER:
            self.go_on("turn")

    async def _connect(self, trusted: ssl.SSLContext | None) -> None:
        place = self._place
        secure: dict[str, Any] = {"ssl": trusted, "server_hostname": place.name} if trusted is not None else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(lambda: _Outward(self), place.address, place.port, **secure)
        except ssl.SSLCertVerificationError as error:
            self._unreachable(f"the host's certificate is not good: {error.verify_message}")
        except (OSError, TimeoutError) as error:
            self._unreachable(f"the host does not answer ({type(error).__name__})")

    def _unreachable(self, reason: str) -> None:
        """Told when the sandbox has asked for something: before, no program listens."""
        self._unreached = Refused(502, reason)
        if self._spoken:
            self._refuse(self._unreached)

    def _refuse(self, refused: Refused) -> None:
        """Say why, as far as an answer can still be given, and end."""
        self._report(allowed=False, reason=str(refused), secret=refused.secret)
        if self._inward is None or self._answering.under_way:
            self.end()
            return
        text = f"Hutch: {self._place.name}: not let through: {refused}\n".encode()
        fields = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", b"%d" % len(text)),
            (b"Connection", b"close"),
        ]
        self._inward.write(dump_answer(refused.status, b"Refused by Hutch", fields) + text)
        self._close(more=True)

    def _close(self, *, more: bool = False) -> None:
        """When all that was written has been sent. `more`: the program may be in the middle of a request. What it still
        sends is read and dropped for a while: a connection that is closed before is reset, and the program may never
        see the answer."""
        self._ended = True
        self._unschedule()
        if self._outward is not None:
            self._outward.abort()
        if self._inward is None:
            return
        if not more:
            self._inward.close()
            return
        self._holds.clear()
        self._inward.resume_reading()
        self._timer = self._loop.call_later(_LINGER, self._inward.close)

    def _schedule(self) -> None:
        self._unschedule()
        if self._answering.holding:
            self._release = self._loop.call_later(_HOLD, self._released)

    def _unschedule(self) -> None:
        if self._release is not None:
            self._release.cancel()
            self._release = None

    def _released(self) -> None:
        self._release = None
        if self._inward is not None:
            self._inward.write(self._answering.release())

    def _used(self, seconds: float) -> None:
        """So much CPU for what was sent, either way: all other sandboxes have waited meanwhile."""
        if not self._granted.share.spend(monotonic(), seconds) and self._timer is None and not self._ended:
            self._timer = self._loop.call_later(_REST, self._rested)
            self.hold("share")
            self._mute()

    def _rested(self) -> None:
        self._timer = None
        self.go_on("share")
        self._hear()

    def _mute(self) -> None:
        self._unschedule()  # the host has perhaps said more, and is not heard
        if self._outward is not None:
            self._outward.pause_reading()

    def _hear(self) -> None:
        if self._full or self._timer is not None or self._outward is None or self._outward.is_closing():
            return
        self._outward.resume_reading()
        self._schedule()

    def _report(self, **how: Any) -> None:
        place = self._place
        told = {name: value for name, value in how.items() if value is not None}
        entry = {"sandbox": self._granted.id, "name": place.name, "address": place.address, "port": place.port}
        self._reporter.report(kind="secret", **entry, **told)


class _Outward(asyncio.Protocol):
    """The side of the host."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._session.opened(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._session.came(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._session.hold("host")

    def resume_writing(self) -> None:
        self._session.go_on("host")

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.lost(exc)
