"""The gateway: any port of any sandbox over HTTP and WebSocket, for whoever has the token."""

from hutch.gateway.routing import GATEWAY_LABEL, Names
from hutch.gateway.secure import SecureDoor
from hutch.gateway.server import Gateway

__all__ = ["GATEWAY_LABEL", "Gateway", "Names", "SecureDoor"]
