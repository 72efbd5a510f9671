"""Credentials at rest: encrypted with keys that never leave their files."""

from hutch.secrets.keyring import Keyring, key_number
from hutch.secrets.vault import Vault, VaultError

__all__ = ["Keyring", "Vault", "VaultError", "key_number"]
