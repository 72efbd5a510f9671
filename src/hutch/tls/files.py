"""Where the certificate lies that the settings ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hutch.settings import Settings
from hutch.tls.authority import AUTHORITY, keep_certificate
from hutch.tls.certificates import TlsProblem


@dataclass(frozen=True)
class PemFiles:
    """A certificate with those that signed it, and its key: two files, or twice the same."""

    chain: Path
    key: Path


def host_of(settings: Settings) -> str:
    """The domain without a port, in small letters. Raises `TlsProblem` without one."""
    if settings.domain is None:
        raise TlsProblem(
            "TLS needs a domain, whose names lead to this machine",
            hint="hutch up --domain box.example.org (HUTCH_DOMAIN)",
        )
    return settings.domain.partition(":")[0].lower()


def find_files(settings: Settings) -> PemFiles:
    """The files; the local authority's are made where they are missing or soon end. Raises `TlsProblem`."""
    host = host_of(settings)
    if settings.tls_self:
        if settings.tls_cert is not None or settings.tls_key is not None:
            raise TlsProblem(
                "HUTCH_TLS_SELF and HUTCH_TLS_CERT cannot be together",
                hint="Take a certificate of your own, or the local authority's.",
            )
        served = keep_certificate(_directory(settings, host), host)
        return PemFiles(served, served)
    if settings.tls_cert is None or settings.tls_key is None:
        missing = "HUTCH_TLS_CERT" if settings.tls_cert is None else "HUTCH_TLS_KEY"
        raise TlsProblem(f"{missing} is missing", hint="hutch up --tls CERTIFICATE KEY names both files.")
    return PemFiles(settings.tls_cert, settings.tls_key)


def authority_file(settings: Settings) -> Path:
    """The local authority's own certificate, which clients are to trust. Raises `TlsProblem` without a domain."""
    return _directory(settings, host_of(settings)) / AUTHORITY


def _directory(settings: Settings, host: str) -> Path:
    return settings.data_dir / "tls" / host
