"""What the daemon is put together from."""

from __future__ import annotations

from dataclasses import dataclass

from hutch.egress.brokering import Broker
from hutch.egress.fencing import Fence
from hutch.egress.identity import IdentityDoor
from hutch.egress.llm.gateway import LlmGateway
from hutch.images.catalog import ImageStore
from hutch.network.base import SlotPool
from hutch.node.activity import Activity
from hutch.node.asking import Desk
from hutch.node.budgets import Budgets
from hutch.node.dialing import Dialer
from hutch.node.egress import Egress
from hutch.node.egress_log import EgressLog
from hutch.node.entry import Registry
from hutch.node.guest import GuestClient
from hutch.node.guest_disk import GuestDisk
from hutch.node.home import NodeHome
from hutch.node.journal import Journal
from hutch.node.pins import Pins
from hutch.node.records import RecordStore
from hutch.node.secrets import NodeSecrets
from hutch.node.snapshots import Snapshots
from hutch.node.tracing import Tracing
from hutch.runtime.base import Runtime
from hutch.settings import Settings


@dataclass(frozen=True)
class Parts:
    """One of each; made and started in `hutch.node.daemon`."""

    settings: Settings
    home: NodeHome
    registry: Registry
    records: RecordStore
    journal: Journal
    activity: Activity
    tracing: Tracing
    runtime: Runtime
    slots: SlotPool
    images: ImageStore
    gateway: LlmGateway
    desk: Desk
    identities: IdentityDoor
    budgets: Budgets
    fence: Fence
    broker: Broker
    secrets: NodeSecrets
    egress: Egress
    egress_log: EgressLog
    guests: GuestClient
    disks: GuestDisk
    dialer: Dialer
    snapshots: Snapshots
    pins: Pins
