"""AES-256-GCM with a master key from a file.

A sealed value is one version byte, a 12-byte random nonce, and the ciphertext with its tag. The *context* (which row
and column it belongs to) is authenticated with it, so that a value copied into another row does not open there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE = 12
_KEY = 32


class VaultError(Exception):
    """A value that does not open, or a master key file that cannot be trusted. Never says what is inside."""


class Vault:
    """Seals and opens short secrets."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._tokens = hmac.new(key, b"tokens", hashlib.sha256).digest()

    def __repr__(self) -> str:
        return "Vault()"

    @classmethod
    def open_file(cls, path: Path) -> Vault:
        """The vault of the key in `path`, which is made (0600) when there is none. Of two processes that make it at
        once, one wins and both use its key. Blocking, and quick: call it at start."""
        if not path.exists():
            _create(path)
        return cls(_read(path))

    def seal(self, plain: str, context: str) -> bytes:
        """Encrypt `plain` so that it opens only with the same context."""
        nonce = secrets.token_bytes(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain.encode(), _VERSION + context.encode())

    def unseal(self, sealed: bytes, context: str) -> str:
        """Raises `VaultError` for a changed value, another context, or another master key."""
        if sealed[:1] != _VERSION:
            raise VaultError("a sealed value of a version that is not known")
        nonce, body = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            return self._cipher.decrypt(nonce, body, _VERSION + context.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise VaultError("a sealed value does not open: it was changed, or sealed with another key") from error

    def token(self, context: str) -> str:
        """A token that nobody else can make, the same for the same context whenever it is asked for."""
        return hmac.new(self._tokens, context.encode(), hashlib.sha256).hexdigest()


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, fails when another process was first
        except FileExistsError:
            return
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Make the file these bytes, whole or not at all, for its owner only, and on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """What was renamed in it outlasts a power cut from here."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        key = file.read(_KEY + 1)
    if mode & 0o077:
        raise VaultError(f"{path} can be read by others (mode {mode:04o}): `chmod 600 {path}`")
    if len(key) != _KEY:
        raise VaultError(f"{path} is not a master key: it has to be {_KEY} bytes")
    return key
