"""A certificate with its key: read, and found to be what it must be before anybody is served with it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from hutch.errors import HutchError

_MAX_FILE = 1 << 20


class TlsProblem(HutchError):
    """A certificate, a key or a setting of TLS is not as it must be."""

    code: ClassVar[str] = "tls_problem"


@dataclass(frozen=True)
class Certificate:
    """One that can be served."""

    pem: bytes
    """Its chain and its key."""
    names: tuple[str, ...]
    ends: datetime.datetime

    @property
    def days_left(self) -> float:
        """Until its end; negative afterwards."""
        return (self.ends - datetime.datetime.now(datetime.UTC)) / datetime.timedelta(days=1)


def read_certificate(chain: Path, key: Path, host: str) -> Certificate:
    """The certificate of `host` and all names right below it. One whose time is over is read like any other. Raises
    `TlsProblem`."""
    chain_pem = _read(chain, "certificate")
    key_pem = chain_pem if key == chain else _read(key, "key")
    try:
        certificate = x509.load_pem_x509_certificates(chain_pem)[0]
    except ValueError as error:
        raise TlsProblem(
            f"{chain} holds no certificate in PEM form",
            hint="It begins with -----BEGIN CERTIFICATE-----, the server's own first, then those that signed it.",
        ) from error
    if _public(_private_key(key, key_pem)) != _public(certificate):
        raise TlsProblem(
            f"the key in {key} is not the one of the certificate in {chain}",
            hint="Give the two files that were made together.",
        )
    names = _names(certificate)
    if f"*.{host}" not in names:
        raise TlsProblem(
            f"the certificate in {chain} is for {', '.join(names) or 'no names'}, not for *.{host}",
            hint=f"Get one for *.{host} (`api.{host}` and `PORT-SANDBOX.{host}` are served), or set HUTCH_DOMAIN to "
            "the domain that it is for.",
        )
    pem = chain_pem if key == chain else chain_pem.rstrip() + b"\n" + key_pem
    return Certificate(pem, tuple(names), certificate.not_valid_after_utc)


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise TlsProblem(
            f"the {what} {path} cannot be read: {error.strerror}", hint="Check the path, and who may read it."
        ) from error
    if len(data) > _MAX_FILE:
        raise TlsProblem(f"{path} has more than a MiB: that is no {what}", hint="Give a file in PEM form.")
    return data


def _private_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise TlsProblem(
            f"the key {path} is locked with a password",
            hint=f"Write it without one: openssl pkey -in {path} -out key.pem",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsProblem(
            f"{path} holds no private key in PEM form", hint="It begins with -----BEGIN PRIVATE KEY-----."
        ) from error


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        told = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in told.get_values_for_type(x509.DNSName)]


def _public(holder: PrivateKeyTypes | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
