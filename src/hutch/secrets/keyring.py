"""The keys that an organisation's secrets are sealed with: a file of their own beside the master key, in which a key
can be replaced.

    {"current": 2, "keys": {"1": "<64 hexadecimal digits>", "2": "..."}}

A sealed value says with which key: one version byte, the key's number (4 bytes), a 12-byte random nonce, and the
ciphertext with its tag (AES-256-GCM). While secrets are sealed anew the file holds both keys, so that a crash at any
moment leaves nothing that does not open.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import struct
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hutch.secrets.vault import VaultError, replace_file

_VERSION = b"\x02"
_NUMBER, _NONCE, _KEY = 4, 12, 32
_MOST = 1 << 16


class Keyring:
    """Seals with the newest key, opens with any. Methods that change the file block for a moment."""

    def __init__(self, path: Path, keys: dict[int, bytes], current: int) -> None:
        self._path = path
        self._keys = keys
        self._current = current

    def __repr__(self) -> str:
        return f"Keyring(current={self._current})"

    @classmethod
    def open_file(cls, path: Path) -> Keyring:
        """The keys in `path`, which is made (0600) when there is none. One process at a time has it. Raises
        `VaultError`."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, {1: secrets.token_bytes(_KEY)}, 1)
        return cls(path, *_read(path))

    @property
    def current(self) -> int:
        """The number of the key that seals."""
        return self._current

    @property
    def changing(self) -> bool:
        """Whether there are older keys yet."""
        return len(self._keys) > 1

    def add(self) -> int:
        """A new key, which seals from now on; its number."""
        number = self._current + 1
        keys = self._keys | {number: secrets.token_bytes(_KEY)}
        _write(self._path, keys, number)
        self._keys, self._current = keys, number
        return number

    def forget_older(self) -> None:
        """Keep the newest key only: nothing is sealed with another any more."""
        keys = {self._current: self._keys[self._current]}
        _write(self._path, keys, self._current)
        self._keys = keys

    def seal(self, plain: str, context: str) -> bytes:
        """Encrypt `plain` so that it opens only with the same context."""
        head, nonce = _VERSION + struct.pack(">I", self._current), secrets.token_bytes(_NONCE)
        sealed = AESGCM(self._keys[self._current]).encrypt(nonce, plain.encode(), head + context.encode())
        return head + nonce + sealed

    def unseal(self, sealed: bytes, context: str) -> str:
        """Raises `VaultError` for a changed value, another context, or a key that is gone."""
        key = self._keys.get(key_number(sealed))
        if key is None:
            raise VaultError("a sealed value whose key is not in the key file any more")
        head, nonce, body = sealed[:5], sealed[5 : 5 + _NONCE], sealed[5 + _NONCE :]
        try:
            return AESGCM(key).decrypt(nonce, body, head + context.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise VaultError("a sealed value does not open: it was changed, or sealed with another key") from error


def key_number(sealed: bytes) -> int:
    """The key that a value is sealed with. Raises `VaultError`."""
    if sealed[:1] != _VERSION or len(sealed) < 1 + _NUMBER + _NONCE:
        raise VaultError("a sealed value of a version that is not known")
    number: int = struct.unpack_from(">I", sealed, 1)[0]
    return number


def _write(path: Path, keys: dict[int, bytes], current: int) -> None:
    data = {"current": current, "keys": {str(number): key.hex() for number, key in keys.items()}}
    replace_file(path, json.dumps(data).encode())


def _read(path: Path) -> tuple[dict[int, bytes], int]:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        data = file.read(_MOST)
    if mode & 0o077:
        raise VaultError(f"{path} can be read by others (mode {mode:04o}): `chmod 600 {path}`")
    try:
        said = json.loads(data)
        keys = {int(number): bytes.fromhex(key) for number, key in said["keys"].items()}
        current = int(said["current"])
    except (ValueError, KeyError, TypeError, AttributeError):
        keys, current = {}, 0
    if current not in keys or any(len(key) != _KEY for key in keys.values()):
        raise VaultError(f"{path} holds no keys for secrets: restore it from a backup")
    return keys, current
