"""Whose certificates the SDK trusts."""

from __future__ import annotations

import ssl

from hutch.sdk.certificates import trusted


def test_plain_http_on_this_machine_trusts_nobody() -> None:
    context = trusted("http://127.0.0.1:8700", environment=False)
    assert context.cert_store_stats()["x509"] == 0
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname


def test_the_authorities_are_read_once_a_process() -> None:
    for environment in (False, True):
        context = trusted("https://hutch.example", environment=environment)
        assert context is trusted("https://other.example", environment=environment)
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert trusted("http://hutch.example", environment=True) is context  # by way of a proxy, perhaps
