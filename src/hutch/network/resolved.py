"""The addresses that names were resolved to, in the kernel: connections there are led to the fence.

A context of its own, for these come at any moment, and must not wait for a namespace that is just being made.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from hutch.errors import InternalError
from hutch.network.nft import Nft, NftError

MAX_OF_ONE = 4096
"""Places of one sandbox at once."""


class Resolved:
    """The set `resolved` of one node's table."""

    def __init__(self, node: str) -> None:
        self._set = f"inet hutch_{node} resolved"
        self._nft = Nft()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resolved")
        self._of: dict[str, dict[tuple[str, int], float]] = {}
        """By guest: until when each place is there, by the event loop's clock."""

    async def add(self, guest: str, targets: list[tuple[str, int]], seconds: float) -> None:
        """Let them in for so long; one that is there already gets the longer time. Raises `InternalError`."""
        now = asyncio.get_running_loop().time()
        known = self._of.setdefault(guest, {})
        if len(known) + len(targets) > MAX_OF_ONE:
            known = self._of[guest] = {place: until for place, until in known.items() if until > now}
        wanted = [place for place in targets if known.get(place, 0.0) < now + seconds]
        if len(known) + len(wanted) > MAX_OF_ONE:
            raise InternalError(f"{guest} has resolved too many names at once")
        if wanted:
            known.update(dict.fromkeys(wanted, now + seconds))
            # An element that is added a second time keeps its first timeout on kernels before 6.12.
            keys = [f"{guest} . {address} . {port}" for address, port in wanted]
            plain, timed = ", ".join(keys), ", ".join(f"{key} timeout {int(seconds) + 1}s" for key in keys)
            await self._run(
                f"add element {self._set} {{ {plain} }}\n"
                f"delete element {self._set} {{ {plain} }}\n"
                f"add element {self._set} {{ {timed} }}"
            )

    async def forget(self, guest: str) -> None:
        """Take out all of one guest: its address is the next one's."""
        places = self._of.pop(guest, {})
        if places:
            keys = ", ".join(f"{guest} . {address} . {port}" for address, port in places)
            # Some are gone by themselves: added first, so that all can be deleted.
            await self._run(f"add element {self._set} {{ {keys} }}\ndelete element {self._set} {{ {keys} }}")

    async def clear(self) -> None:
        """Take out all."""
        self._of.clear()
        await self._run(f"flush set {self._set}")

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._nft.close()

    async def _run(self, commands: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._nft.run, commands)
        except NftError as error:
            raise InternalError(f"names cannot be let in: {error}") from error
