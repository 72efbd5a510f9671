"""The slots of one node on Linux: made ahead, lent once, destroyed.

Once runsc has taken a namespace's addresses for its own network stack they are gone from the namespace: a slot cannot
be lent twice, nor should anything that a sandbox did to it live on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Network
from typing import TypeVar

import structlog

from hutch.errors import InternalError, LimitReached
from hutch.model import AllowAll, DenyAll, NetworkPolicy, NetworkRules
from hutch.model.private import private_networks
from hutch.network import namespaces, subnets
from hutch.network.base import Services, Slot, SlotPool
from hutch.network.chains import forwarded
from hutch.network.connections import forget_connections
from hutch.network.firewall import Firewall, table_exists
from hutch.network.nft import NftError
from hutch.network.resolved import Resolved

SLOT_PREFIX = 30
RETRY_PAUSE = 1.0
AFTER_DEMAND = 0.3
"""Seconds in which whoever has taken a slot has the machine, while there are others."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class LinuxSlotPool(SlotPool):
    """Namespaces and veth pairs in a /20 of the node's own, behind one nftables table.

    All that touches the kernel runs in threads, one thing after the other.
    """

    def __init__(self, node: str, subnet_pool: str, ahead: int, services: Services, private: str = "") -> None:
        self._node = node
        self._pool = IPv4Network(subnet_pool)
        self._ahead = ahead
        self._services = services
        self._private = private_networks(private, subnet_pool)
        self._kernel = asyncio.Lock()
        self._free: list[Slot] = []
        self._lent: set[int] = set()
        self._busy: set[int] = set()
        """Indexes that exist in the kernel, or soon will, or still do: free, lent, being made or removed."""
        self._went_out: set[int] = set()
        """Indexes of slots that could reach the outside: nobody else ends the connections that they leave."""
        self._next = 0
        self._wanted = asyncio.Event()
        self._maker: asyncio.Task[None] | None = None
        self._making: set[asyncio.Task[None]] = set()
        self._subnet: IPv4Network | None = None
        self._firewall: Firewall | None = None
        self._policies: dict[int, NetworkPolicy] = {}
        self._resolved = Resolved(node)

    @property
    def free(self) -> int:
        """Slots ready to be lent."""
        return len(self._free)

    @property
    def network(self) -> IPv4Network:
        return self._network

    @property
    def dialer(self) -> int:
        return subnets.user_of(self._network)

    async def start(self, in_use: dict[str, int], policies: Mapping[str, NetworkPolicy] | None = None) -> None:
        self._policies = {in_use[sandbox]: policy for sandbox, policy in (policies or {}).items() if sandbox in in_use}
        self._lent = set(in_use.values())
        self._busy = set(self._lent)
        self._went_out = set(self._lent)  # for all we know
        try:
            await self._call(self._set_up)
        except (NftError, OSError) as error:
            raise InternalError(f"the network cannot be set up: {error}", hint="`hutch doctor` checks it.") from error
        self._maker = asyncio.create_task(self._make_ahead(), name="slots-ahead")

    async def acquire(self, sandbox: str, policy: NetworkPolicy) -> Slot:
        while not self._free:
            try:
                await self._make()
            except OSError as error:
                raise InternalError(f"no network slot: {error}", hint="`hutch doctor` checks the network.") from error
        slot = self._free.pop(0)
        self._lent.add(slot.index)
        self._wanted.set()
        try:
            await self.set_policy(slot, policy)
        except BaseException:
            await asyncio.shield(self.release(slot))
            raise
        log.debug("slot lent", sandbox=sandbox, slot=slot.namespace)
        return slot

    async def set_policy(self, slot: Slot, policy: NetworkPolicy) -> None:
        def change() -> None:
            if not isinstance(policy, DenyAll):
                self._went_out.add(slot.index)
            if goes_out(policy):
                namespaces.enable_forwarding()
            self._rules.set_policy(slot, policy)

        try:
            await self._call(change)
        except (NftError, OSError) as error:
            hint = "Policies need nftables, and `allow_all` a writable net.ipv4.ip_forward."
            raise InternalError(f"network policy of {slot.namespace} not set: {error}", hint=hint) from error

    async def resolve(self, address: str, targets: list[tuple[str, int]], seconds: float) -> None:
        await self._resolved.add(address, targets, seconds)

    async def close_names(self) -> None:
        await self._resolved.clear()

    async def refusals(self) -> dict[str, int]:
        try:
            return await self._call(self._rules.refusals)
        except NftError as error:
            raise InternalError(f"refusals cannot be counted: {error}") from error

    async def release(self, slot: Slot) -> None:
        if slot.index in self._lent:
            self._lent.discard(slot.index)
            await asyncio.shield(asyncio.ensure_future(self._destroy(slot)))

    def slot(self, index: int) -> Slot:
        if not 0 <= index < self._size:
            raise ValueError(f"no slot {index}")
        base = self._network.network_address + 4 * index
        return Slot(
            index=index,
            namespace=f"{self._namespace_prefix}{index}",
            link=f"{self._link_prefix}{index}",
            host_address=str(base + 1),
            guest_address=str(base + 2),
            prefix=SLOT_PREFIX,
        )

    async def stop(self) -> None:
        if self._maker:
            self._maker.cancel()
            await asyncio.gather(self._maker, return_exceptions=True)
        await asyncio.gather(*self._making, return_exceptions=True)
        while self._free:
            await self._destroy(self._free.pop())

    async def remove_all(self) -> None:
        await self.stop()
        await self._call(self._tear_down)
        self._lent.clear()
        self._busy.clear()

    async def _make_ahead(self) -> None:
        """Keep as many slots ready as was asked for."""
        while True:
            self._wanted.clear()
            try:
                while len(self._free) < self._ahead:
                    await self._make()
            except LimitReached:
                pass  # the next release asks again
            except OSError as error:
                log.warning("no slot made", error=str(error))
                await asyncio.sleep(RETRY_PAUSE)
                continue
            await self._wanted.wait()
            if self._free:
                await asyncio.sleep(AFTER_DEMAND)

    async def _make(self) -> None:
        """Add a new slot to the free ones. Raises `LimitReached`, `OSError`."""
        for last in (False, False, False, True):
            # As a task of its own: a caller who is cancelled leaves a free slot behind, not a lost one.
            task = asyncio.create_task(self._create(self.slot(self._take_index())))
            self._making.add(task)
            task.add_done_callback(self._making.discard)
            try:
                return await asyncio.shield(task)
            except OSError:
                if last:
                    raise
                # Most likely an earlier link of this name is still on its way out: try the next index.

    async def _create(self, slot: Slot) -> None:
        try:
            await self._call(lambda: namespaces.create(slot))
        except OSError:
            self._busy.discard(slot.index)
            raise
        self._free.append(slot)

    async def _destroy(self, slot: Slot) -> None:
        def destroy() -> None:
            self._rules.forget(slot)
            namespaces.remove(slot.namespace, slot.link)
            if slot.index in self._went_out:
                self._went_out.discard(slot.index)
                with suppress(OSError):  # a kernel that cannot list them
                    forget_connections(slot.guest_address)

        try:
            await self._call(destroy)
            await self._resolved.forget(slot.guest_address)
        except (NftError, OSError, InternalError) as error:
            # Its index stays taken; what is left of it goes with the next start.
            log.error("slot not removed", slot=slot.namespace, error=str(error))
        else:
            self._busy.discard(slot.index)
        self._wanted.set()

    def _take_index(self) -> int:
        """The next index that nothing stands for. Not the lowest: names that were just given up may not be free yet."""
        for step in range(self._size):
            index = (self._next + step) % self._size
            if index not in self._busy:
                self._busy.add(index)
                self._next = index + 1
                return index
        raise LimitReached(f"all {self._size} network slots of this node are lent", limit="slots")

    def _set_up(self) -> None:
        """The subnet, the table, and nothing but the slots that are lent."""
        subnets.claim(self._node, self._pool, self._used_networks(), _lives, self._settle)
        found = self._found()
        self._next = max((int(tail) for tail in found if tail.isdecimal()), default=-1) + 1
        self._sweep(found - {str(index) for index in self._lent})

    def _settle(self, subnet: IPv4Network) -> None:
        self._subnet = subnet
        self._firewall = Firewall(self._node, str(subnet), self._services, self.dialer, self._private)
        self._firewall.install([self.slot(index) for index in self._lent], self._policies)

    def _tear_down(self) -> None:
        self._sweep(self._found())
        self._rules.remove()
        subnets.release(self._node)

    def _found(self) -> set[str]:
        """What follows our prefix in the names of all namespaces and links that bear it: indexes."""
        spaces, links = namespaces.names(self._namespace_prefix), namespaces.links(self._link_prefix)
        tails = {name.removeprefix(self._namespace_prefix) for name in spaces}
        return tails | {name.removeprefix(self._link_prefix) for name in links}

    def _sweep(self, tails: set[str]) -> None:
        for tail in tails:
            namespaces.remove(self._namespace_prefix + tail, self._link_prefix + tail)

    def _used_networks(self) -> list[IPv4Network]:
        """What the host uses, but for what is ours."""
        return [network for network in namespaces.used_networks() if not network.subnet_of(self._pool)]

    async def _call(self, work: Callable[[], T]) -> T:
        async with self._kernel:
            return await asyncio.to_thread(work)

    @property
    def _namespace_prefix(self) -> str:
        return f"hutch-{self._node}-"

    @property
    def _link_prefix(self) -> str:
        return f"h{self._node}x"

    @property
    def _size(self) -> int:
        return self._network.num_addresses // 4

    @property
    def _network(self) -> IPv4Network:
        if self._subnet is None:
            raise RuntimeError("the pool has not been started")
        return self._subnet

    @property
    def _rules(self) -> Firewall:
        if self._firewall is None:
            raise RuntimeError("the pool has not been started")
        return self._firewall


def _lives(node: str) -> bool:
    """Whether a node of this id has left something in the kernel."""
    return table_exists(node) or bool(namespaces.names(f"hutch-{node}-"))


def goes_out(policy: NetworkPolicy) -> bool:
    """Whether the host has to forward packets of a sandbox with this policy."""
    return isinstance(policy, AllowAll) or (isinstance(policy, NetworkRules) and forwarded(policy))
