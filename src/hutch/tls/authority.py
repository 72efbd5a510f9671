"""A certificate authority of this installation, for one domain: it can vouch for no other."""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hutch.tls.certificates import TlsProblem, read_certificate

AUTHORITY, AUTHORITY_KEY, SERVED = "ca.pem", "ca.key", "served.pem"
_AUTHORITY_DAYS, _SERVED_DAYS, RENEW_DAYS = 3650, 90, 30
NOWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def keep_certificate(directory: Path, host: str) -> Path:
    """The file with the certificate of `host` and its key. Made where it is missing, and anew from thirty days before
    its end; the authority once. Several may call at once. Raises `TlsProblem`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _current(directory, host):
                _issue(directory, host)
    except OSError as error:
        raise TlsProblem(
            f"the local certificate authority cannot be kept in {directory}: {error.strerror}",
            hint="The directory must be writable for root, and its disk must have room.",
        ) from error
    return directory / SERVED


def _current(directory: Path, host: str) -> bool:
    """Whether what is served is good for a while, and of the authority that is there."""
    served = directory / SERVED
    try:
        if read_certificate(served, served, host).days_left < RENEW_DAYS:
            return False
        authority = x509.load_pem_x509_certificate((directory / AUTHORITY).read_bytes())
        x509.load_pem_x509_certificate(served.read_bytes()).verify_directly_issued_by(authority)
    except Exception:  # whatever is wrong with it, another is made
        return False
    return True


def _issue(directory: Path, host: str) -> None:
    """A new certificate for the host and the names below it."""
    authority, signer = _load_authority(directory) or _make_authority(directory, host)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    end = min(now + datetime.timedelta(days=_SERVED_DAYS), authority.not_valid_after_utc)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        begin(authority.subject, host, key, now, end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host), x509.DNSName(f"*.{host}")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    chain = certificate.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM)
    _write(directory / SERVED, chain + dump_key(key), 0o600)


def _load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """None when there is none, or one that soon ends."""
    try:
        authority = x509.load_pem_x509_certificate((directory / AUTHORITY).read_bytes())
        key = load_pem_private_key((directory / AUTHORITY_KEY).read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEW_DAYS)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        return None
    return (authority, key) if authority.not_valid_after_utc > soon else None


def _make_authority(directory: Path, host: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hutch CA {now:%Y-%m-%d} {host}"[:64])])
    limits = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(host)], excluded_subtrees=[x509.IPAddress(net) for net in NOWHERE]
    )
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    authority = (
        begin(name, None, key, now, now + datetime.timedelta(days=_AUTHORITY_DAYS), subject=name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(limits, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(directory / AUTHORITY_KEY, dump_key(key), 0o600)
    _write(directory / AUTHORITY, authority.public_bytes(Encoding.PEM), 0o644)
    return authority, key


def begin(
    issuer: x509.Name,
    host: str | None,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    end: datetime.datetime,
    subject: x509.Name | None = None,
) -> x509.CertificateBuilder:
    """What both kinds have."""
    named = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(host)[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of clients differ
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """In PEM form, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable for others than it says."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    temporary.replace(path)
