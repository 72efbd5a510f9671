"""Authorities that live as long as one sandbox, and can vouch for the few hosts that they were made for."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hutch.tls.authority import NOWHERE, begin, dump_key

_AUTHORITY_DAYS, LEAF_DAYS = 3650, 30


class Authority:
    """One that can sign."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def make(cls, title: str, names: Sequence[str]) -> Authority:
        """A new one, for these names and those below them."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        limits = x509.NameConstraints(
            permitted_subtrees=[x509.DNSName(name) for name in sorted(set(names))],
            excluded_subtrees=[x509.IPAddress(net) for net in NOWHERE],
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = begin(subject, None, key, now, now + datetime.timedelta(days=_AUTHORITY_DAYS), subject=subject)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(limits, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: str, key: str) -> Authority:
        """One that was made before. Raises `ValueError`."""
        signer = load_pem_private_key(key.encode(), password=None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is of another kind")
        return cls(x509.load_pem_x509_certificate(certificate.encode()), signer)

    @property
    def certificate(self) -> str:
        """In PEM form."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key(self) -> str:
        """In PEM form, not encrypted."""
        return dump_key(self._key).decode()

    def issue(self, host: str, key: ec.EllipticCurvePrivateKey) -> bytes:
        """A certificate of this host for the key, with the authority's own: a chain in PEM form."""
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = begin(self._certificate.subject, host, key, now, now + datetime.timedelta(days=LEAF_DAYS))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM) + self.certificate.encode()


def subject_hash(certificate: str) -> str:
    """What OpenSSL calls the file of an authority by in a directory of them, before the dot: of a subject that is one
    common name without blanks at its ends (X509_NAME_hash: SHA-1 over the name with its text in small letters)."""
    subject = x509.load_pem_x509_certificate(certificate.encode()).subject
    (attribute,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = " ".join(str(attribute.value).lower().split()).encode()
    canonical = _der(0x31, _der(0x30, bytes.fromhex("0603550403") + _der(0x0C, text)))
    return hashlib.sha1(canonical, usedforsecurity=False).digest()[3::-1].hex()


def _der(tag: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes((tag, len(content))) + content
