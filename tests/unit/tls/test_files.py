"""What is said about files that are no good, and how good ones come to the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from hutch.settings import Settings
from hutch.tls import FreshContext, PemFiles, TlsProblem, context, find_files, place_for, read_certificate
from hutch.tls.authority import keep_certificate

HOST = "box.test"


def dump(password: bytes | None = None) -> bytes:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return keep_certificate(tmp_path / "authority", HOST)


@pytest.mark.parametrize(
    ("chain", "key", "said"),
    [
        (None, dump(), "cannot be read: No such file"),
        (b"hello", dump(), "holds no certificate"),
        (b"", b"hello", "holds no private key"),
        (b"", None, "cannot be read: No such file"),
        (b"", dump(b"secret"), "locked with a password"),
        (b"", dump(), "is not the one of the certificate"),
        (b"x" * (1 << 20) + b"x", dump(), "more than a MiB"),
    ],
)
def test_a_problem_names_the_file(
    tmp_path: Path, good: Path, chain: bytes | None, key: bytes | None, said: str
) -> None:
    for name, told in (("chain.pem", good.read_bytes() if chain == b"" else chain), ("key.pem", key)):
        if told is not None:
            (tmp_path / name).write_bytes(told)
    with pytest.raises(TlsProblem, match=said) as caught:
        read_certificate(tmp_path / "chain.pem", tmp_path / "key.pem", HOST)
    assert str(tmp_path) in caught.value.detail and caught.value.hint


def test_it_must_be_for_all_names_of_the_domain(good: Path) -> None:
    assert read_certificate(good, good, HOST).names == (HOST, f"*.{HOST}")
    with pytest.raises(TlsProblem, match=r"is for box.test, \*.box.test, not for \*.box.example"):
        read_certificate(good, good, "box.example")


def settings(root: Path, **told: object) -> Settings:
    return Settings(data_dir=root / "data", run_dir=root / "run", **told)  # type: ignore[arg-type]


def test_settings_that_do_not_fit_together(tmp_path: Path, good: Path) -> None:
    for told, said in (
        ({"tls_self": True}, "needs a domain"),
        ({"domain": HOST, "tls_self": True, "tls_cert": good}, "cannot be together"),
        ({"domain": HOST, "tls_cert": good}, "HUTCH_TLS_KEY is missing"),
        ({"domain": HOST, "tls_key": good}, "HUTCH_TLS_CERT is missing"),
    ):
        with pytest.raises(TlsProblem, match=said):
            find_files(settings(tmp_path, **told))


def test_the_server_gets_it_whole_and_alone(tmp_path: Path, good: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    text = good.read_text()
    at = text.index("-----BEGIN PRIVATE")
    chain.write_text(text[:at])
    key.write_text(text[at:])
    told = settings(tmp_path, domain=f"{HOST}:8443", tls_cert=chain, tls_key=key)
    path, _ = place_for(told, os.getuid(), os.getgid())
    assert path.read_text() == text and stat.S_IMODE(path.stat().st_mode) == 0o400
    before = path.stat().st_ino
    assert place_for(told, os.getuid(), os.getgid())[0].stat().st_ino == before  # nothing has changed
    chain.write_text("half of a new one")
    with pytest.raises(TlsProblem):
        place_for(told, os.getuid(), os.getgid())
    assert path.read_text() == text


def certificate_with_broken_names() -> str:
    """One whose extensions cannot be read, with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\xff"), critical=False)
        .sign(key, hashes.SHA256())
    )
    dumped = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (certificate.public_bytes(Encoding.PEM) + dumped).decode()


async def test_another_certificate_is_taken_and_a_bad_one_is_not(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "LOOK_SECONDS", 0.01)
    other = keep_certificate(tmp_path / "other", HOST)
    served = tmp_path / "served.pem"
    shutil.copy(good, served)
    fresh = FreshContext(PemFiles(served, served), HOST)
    first = fresh.current
    looking = asyncio.create_task(fresh.keep_fresh())
    looks = fresh._seen
    async with asyncio.timeout(10):
        for bad in ("nothing of the kind, for now", certificate_with_broken_names()):
            served.write_text(bad)
            while fresh._seen == looks:
                await asyncio.sleep(0.01)
            looks = fresh._seen
            assert fresh.current is first
        other.replace(served)
        while fresh.current is first:
            await asyncio.sleep(0.01)
    looking.cancel()
