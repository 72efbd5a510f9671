"""What TLS connections are made with: always from the files as they are."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from hutch.tls.certificates import Certificate, TlsProblem, read_certificate
from hutch.tls.files import PemFiles

LOOK_SECONDS = 5.0
_SOON_DAYS = 14

_log = structlog.get_logger("hutch.tls")


class FreshContext:
    """The context for new connections. Raises `TlsProblem` when it cannot be made at first; later ones that are no good
    are logged, and the last good one stays."""

    def __init__(self, files: PemFiles, host: str) -> None:
        self._files = files
        self._host = host
        self._seen = self._stamps()
        self.current = self._load()

    async def keep_fresh(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            stamps = await asyncio.to_thread(self._stamps)
            if stamps == self._seen:
                continue
            self._seen = stamps
            try:
                self.current = await asyncio.to_thread(self._load)
            except Exception as error:  # what is in the files is not ours, and a later one may be good
                _log.error("the new certificate is not taken, the last one stays", problem=str(error))
            else:
                _log.info("another certificate is served from now on")

    def _load(self) -> ssl.SSLContext:
        certificate = read_certificate(self._files.chain, self._files.key, self._host)
        _say_when_it_ends(certificate)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._files.chain, self._files.key)
        except (ssl.SSLError, OSError) as error:
            raise TlsProblem(f"{self._files.chain} cannot be served: {error}", hint="Make another one.") from error
        return context

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        """By which a file is told from a later one."""
        return [_stamp(path) for path in (self._files.chain, self._files.key)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _say_when_it_ends(certificate: Certificate) -> None:
    if certificate.days_left < _SOON_DAYS:
        _log.warning("the certificate ends soon, or has ended", ends=certificate.ends.isoformat())
