"""A machine on which all names of a domain lead to this one, and whose authorities include the operator's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import certifi
import pytest

DOMAIN = os.environ["E2B_DOMAIN"].partition(":")[0]
_resolve = socket.getaddrinfo


def _getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    return _resolve("127.0.0.1" if str(name).endswith("." + DOMAIN) else host, *arguments, **options)


socket.getaddrinfo = _getaddrinfo
certifi.where = lambda: os.environ["SSL_CERT_FILE"]

from e2b import Sandbox  # noqa: E402


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(timeout=300, metadata={"of": "version-1"}, envs={"GREETING": "hello"})
    yield made
    made.kill()
