"""What every part of control works with."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from uuid import uuid4
from weakref import WeakValueDictionary

from hutch.blobs import FileBlobs
from hutch.control.notifier import Notifier
from hutch.control.places import Places
from hutch.errors import NodeUnavailable, SandboxNotRunning
from hutch.fleet import Fleet, GuestClient, Node
from hutch.secrets import Keyring, Vault
from hutch.settings import Settings
from hutch.store import Store
from hutch.store.events import NewEvent
from hutch.store.sandboxes import SandboxRow


@dataclass(frozen=True)
class Context:
    """One server process: its stores, its fleet, its name."""

    settings: Settings
    store: Store
    fleet: Fleet
    vault: Vault
    keyring: Keyring
    blobs: FileBlobs
    places: Places
    private: tuple[IPv4Network, ...] = ()
    """Private networks that policies may name."""
    notifier: Notifier = field(default_factory=Notifier)
    instance: str = field(default_factory=lambda: uuid4().hex)
    """Owner of this process's leases."""
    sealing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is sealed with the keyring and kept, or sealed anew: nothing must be left with a key that is
    about to go."""
    _networks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _tellings: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def network_of(self, sandbox_id: str) -> asyncio.Lock:
        """Held while its node is told what it may reach, and while that is written down."""
        return self._networks.setdefault(sandbox_id, asyncio.Lock())

    def telling(self, sandbox_id: str) -> asyncio.Lock:
        """Held from reading what it may use of secrets until its node was told."""
        return self._tellings.setdefault(sandbox_id, asyncio.Lock())

    def node_of(self, row: SandboxRow) -> Node:
        """The node that the sandbox was placed on."""
        if row.node is None:
            raise NodeUnavailable(f"{row.id} was never placed on a node")
        return self.fleet.node(row.node)

    def guest_of(self, row: SandboxRow) -> GuestClient:
        """The guest of a sandbox that runs."""
        if row.state != "running" or row.guest_token is None:
            raise not_running(row)
        return self.node_of(row).guest(row.id, row.guest_token)


def not_running(row: SandboxRow) -> SandboxNotRunning:
    """The error that says in which state the sandbox is, and why."""
    return SandboxNotRunning(f"{row.id} is {row.state}" + (f": {row.reason}" if row.reason else ""), state=row.state)


def event(type_: str, **data: object) -> NewEvent:
    """A new event of now."""
    return NewEvent(type_, data, time.time())
