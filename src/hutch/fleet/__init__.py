"""The nodes together, and the way to the guests on them."""

from hutch.fleet.base import Fleet, Node
from hutch.fleet.guest import Frame, FrameKind, GuestClient, Output, ProcessSpec
from hutch.fleet.local import LocalFleet
from hutch.fleet.transport import HungUp

__all__ = ["Fleet", "Frame", "FrameKind", "GuestClient", "HungUp", "LocalFleet", "Node", "Output", "ProcessSpec"]
