"""Who calls: API keys."""

from hutch.identity.keys import Caller, KeyRing

__all__ = ["Caller", "KeyRing"]
