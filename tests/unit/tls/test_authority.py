"""The local authority: made once, for one domain, and what it signs is believed by a client that trusts it."""

from __future__ import annotations

import concurrent.futures
import ssl
import stat
from pathlib import Path

import pytest

from hutch.tls import authority, read_certificate
from hutch.tls.authority import keep_certificate

HOST = "box.test"


def shake(server: Path, trusted: Path, name: str) -> str:
    """A whole handshake in memory; the version of TLS."""
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(server)
    theirs = ssl.create_default_context(cafile=str(trusted))
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(to_client, to_server, server_hostname=name)
    other = ours.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, other, client, other):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.version() or ""


def test_clients_that_trust_it_believe_names_below_the_domain_and_no_others(tmp_path: Path) -> None:
    served = keep_certificate(tmp_path, HOST)
    for name in (HOST, f"api.{HOST}", f"8000-iabc.{HOST}"):
        assert shake(served, tmp_path / "ca.pem", name) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(served, tmp_path / "ca.pem", "box.example")


def test_it_cannot_vouch_for_another_domain(tmp_path: Path) -> None:
    keep_certificate(tmp_path, HOST)
    authority._issue(tmp_path, "bank.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake(tmp_path / "served.pem", tmp_path / "ca.pem", "bank.example")


def test_it_is_made_once_also_by_two_at_once_and_its_keys_are_private(tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: keep_certificate(tmp_path, HOST), range(4)))
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert keep_certificate(tmp_path, HOST).read_bytes() == made["served.pem"]
    assert (tmp_path / "ca.pem").read_bytes() == made["ca.pem"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert (modes["ca.key"], modes["served.pem"], modes["ca.pem"]) == (0o600, 0o600, 0o644)


def test_what_it_serves_is_renewed_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(authority, "_SERVED_DAYS", 29)
        before = keep_certificate(tmp_path, HOST).read_bytes()
    trusted = (tmp_path / "ca.pem").read_bytes()
    served = keep_certificate(tmp_path, HOST)
    assert served.read_bytes() != before and (tmp_path / "ca.pem").read_bytes() == trusted
    assert 89 < read_certificate(served, served, HOST).days_left < 91


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem", "served.pem"])
def test_after_a_kill_in_the_middle_all_fits_together_again(tmp_path: Path, lost: str) -> None:
    keep_certificate(tmp_path, HOST)
    (tmp_path / lost).unlink()
    served = keep_certificate(tmp_path, HOST)
    if lost == "ca.key":  # what it signed is good until it has to be renewed
        authority._issue(tmp_path, HOST)
    assert shake(served, tmp_path / "ca.pem", f"api.{HOST}") == "TLSv1.3"
