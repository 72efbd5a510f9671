"""Who calls: API keys; and who a sandbox is: the tokens that say so."""

from hutch.identity.keys import Caller, KeyRing

__all__ = ["Caller", "KeyRing"]
