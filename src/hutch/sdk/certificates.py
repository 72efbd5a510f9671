"""Whose certificates the SDK trusts. Reading them takes longer than claiming a sandbox: once a process."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


def trusted(url: str, *, environment: bool) -> ssl.SSLContext:
    """For a client of this URL. `environment`: whether `SSL_CERT_FILE` and proxies count; without, plain HTTP needs to
    trust nobody, and does not."""
    if not environment and url.startswith("http://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _authorities(environment)


@cache
def _authorities(environment: bool) -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=environment)
