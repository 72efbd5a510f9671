"""Slots: prepared network places, made ahead and lent to one sandbox at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from hutch.model import NetworkPolicy

LLM_ADDRESS = "169.254.169.253"
"""Where `llm.hutch` stands for every sandbox; the host redirects port 80 of it to the node's LLM gateway."""

IDENTITY_ADDRESS = "169.254.169.252"
"""Where a sandbox asks for its identity token; the host redirects port 80 of it to the node's door for that. Not the
address that clouds have their metadata at: that one stays closed, so that whoever looks for a cloud's credentials is
refused at once and stands in the egress log."""

IDENTITY_NAME = "identity.hutch"


@dataclass(frozen=True)
class Services:
    """The ports of the host on which what sandboxes may reach of the node itself listens."""

    llm: int
    """The LLM gateway."""
    identity: int
    """The door for identity tokens."""
    tcp: int
    """The fence, for connections to names."""
    dns: int
    """The fence, for questions about names, over UDP and TCP."""
    uid: int
    """User that the fence runs as: the kernel holds it to public addresses."""
    broker: int
    """User that the broker runs as: held to the same."""
    resolver: tuple[str, int] | None
    """The name server that the fence asks; None: names do not resolve."""


@dataclass(frozen=True)
class Slot:
    """A network namespace with one link to the host."""

    index: int
    namespace: str
    """Name below /run/netns."""
    link: str
    """The host's end of the veth pair."""
    host_address: str
    guest_address: str
    prefix: int


class SlotPool(ABC):
    """The slots of one node. All state that matters is in the kernel and in the node's records, so that a new
    daemon finds it again."""

    @property
    @abstractmethod
    def free(self) -> int:
        """Slots ready to be lent."""

    @property
    @abstractmethod
    def network(self) -> IPv4Network:
        """That all their addresses are of. Once it is started."""

    @property
    @abstractmethod
    def dialer(self) -> int:
        """User whose sockets lead into slots and, by the firewall, nowhere else. Once it is started."""

    @abstractmethod
    async def start(self, in_use: dict[str, int], policies: Mapping[str, NetworkPolicy] | None = None) -> None:
        """Prepare the node's own subnet and firewall table; `in_use` (sandbox id -> slot index) is kept as it is,
        every other slot that is found is removed. Rules are put in force again as `policies` (by sandbox id) has
        them. Starts making slots ahead."""

    @abstractmethod
    async def acquire(self, sandbox: str, policy: NetworkPolicy) -> Slot:
        """A slot for this sandbox, with the policy in force before it is returned. Raises `LimitReached`."""

    @abstractmethod
    async def set_policy(self, slot: Slot, policy: NetworkPolicy) -> None:
        """Change what the sandbox may reach, at once."""

    @abstractmethod
    async def resolve(self, address: str, targets: list[tuple[str, int]], seconds: float) -> None:
        """Let connections of the slot with this address to these places come to the fence, for so long. Raises
        `InternalError`."""

    @abstractmethod
    async def close_names(self) -> None:
        """Refuse all connections to names, of all slots, until they are resolved again."""

    @abstractmethod
    async def refusals(self) -> dict[str, int]:
        """How many packets the firewall has refused of each guest, by its address, since it has it and the node was
        started. Raises `InternalError`."""

    @abstractmethod
    async def release(self, slot: Slot) -> None:
        """Take the slot back: it is destroyed, never lent again as it is. A second call does nothing."""

    @abstractmethod
    def slot(self, index: int) -> Slot:
        """The slot of this index, as names and addresses (it need not exist)."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop making slots. Removes the free ones; those lent out stay."""

    @abstractmethod
    async def remove_all(self) -> None:
        """Remove every slot and the firewall table of this node (`hutch down`, tests)."""
