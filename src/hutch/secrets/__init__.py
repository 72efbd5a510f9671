"""Credentials at rest: encrypted with a master key that never leaves its file."""

from hutch.secrets.vault import Vault, VaultError

__all__ = ["Vault", "VaultError"]
