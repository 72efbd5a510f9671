"""Authorities of sandboxes: for their hosts and no others, and known to OpenSSL by the right name."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hutch.egress.broker.grants import server_context
from hutch.tls.authority import dump_key
from hutch.tls.minting import Authority, subject_hash


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make("hutch broker of sbx_Test", ["good.test", "wild.test"])


@pytest.mark.parametrize(
    ("host", "good"), [("good.test", True), ("a.b.wild.test", True), ("evil.test", False), ("notgood.test", False)]
)
def test_it_vouches_for_its_hosts_only(authority: Authority, host: str, good: bool) -> None:
    loaded = Authority.load(authority.certificate, authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    server = server_context(loaded.issue(host, key) + dump_key(key))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=authority.certificate)
    client.set_alpn_protocols(["h2", "http/1.1"])
    if good:
        assert handshake(client, server, host) == "http/1.1"
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
            handshake(client, server, host)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> str | None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ours.selected_alpn_protocol()


def test_openssl_finds_it_by_its_hash(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    path.write_text(authority.certificate)
    said = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", path], capture_output=True, text=True, check=True
    )
    assert subject_hash(authority.certificate) == said.stdout.strip()
