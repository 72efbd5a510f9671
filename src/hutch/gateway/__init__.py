"""The gateway: any port of any sandbox over HTTP and WebSocket, for whoever has the token."""

from hutch.gateway.server import Gateway

__all__ = ["Gateway"]
