"""Java's lists: what Python's cryptography writes is read, and what is written is read by Java's own program."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
from hypothesis import given
from hypothesis import strategies as st

from hutch.tls.minting import Authority
from hutch_guest import keystores, trust


def authority(title: str) -> str:
    return Authority.make(title, ["good.test"]).certificate


OTHERS = [authority("one"), authority("two")]
OURS = authority("ours")


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def entries(store: bytes) -> list[bytes]:
    """The certificates in a JKS, read by its description; its digest has to be right."""
    magic, version, count = struct.unpack_from(">III", store)
    assert (magic, version) == (0xFEEDFEED, 2)
    found, at = [], 12

    def text(at: int) -> tuple[str, int]:
        (size,) = struct.unpack_from(">H", store, at)
        return store[at + 2 : at + 2 + size].decode(), at + 2 + size

    for _ in range(count):
        assert struct.unpack_from(">I", store, at) == (2,)
        alias, at = text(at + 4)
        kind, at = text(at + 8)
        (size,) = struct.unpack_from(">I", store, at)
        assert alias and kind == "X.509"
        found.append(store[at + 4 : at + 4 + size])
        at += 4 + size
    password = "changeit".encode("utf-16-be") + b"Mighty Aphrodite"
    assert store[at:] == hashlib.sha1(password + store[:at]).digest()
    return found


def pkcs12(*pems: str, password: bytes | None = None) -> bytes:
    certificates = [
        PKCS12Certificate(x509.load_pem_x509_certificate(pem.encode()), b"ca%d" % number)
        for number, pem in enumerate(pems)
    ]
    return serialize_java_truststore(certificates, BestAvailableEncryption(password) if password else NoEncryption())


def test_a_list_of_the_older_form_is_kept_with_one_more() -> None:
    store = keystores.from_pem("".join(["# comment\n", *OTHERS]).encode())
    assert entries(store) == [der(each) for each in OTHERS]
    more = keystores.with_authority(store, OURS.encode())
    assert more is not None and entries(more) == [der(each) for each in (*OTHERS, OURS)]
    assert keystores.with_authority(more, OURS.encode()) is None


def test_a_list_of_the_newer_form_becomes_one_of_the_older() -> None:
    made = keystores.with_authority(pkcs12(*OTHERS), OURS.encode())
    assert made is not None and entries(made) == [der(each) for each in (*OTHERS, OURS)]


@pytest.mark.parametrize("store", [b"", b"nonsense" * 9, pkcs12(*OTHERS, password=b"changeit")])
def test_what_cannot_be_read_is_left(store: bytes) -> None:
    assert keystores.with_authority(store, OURS.encode()) is None


def test_one_with_another_password_is_left() -> None:
    store = keystores.from_pem(OTHERS[0].encode())
    assert keystores.with_authority(store[:-1] + bytes([store[-1] ^ 1]), OURS.encode()) is None


@given(st.binary(max_size=200), st.integers(0, 2000), st.booleans())
def test_no_bytes_do_more_than_be_left(junk: bytes, cut: int, newer: bool) -> None:
    store = pkcs12(*OTHERS) if newer else keystores.from_pem(OTHERS[0].encode())
    keystores.with_authority(store[:cut] + junk + store[cut:], OURS.encode())
    keystores.with_authority(store[:cut], OURS.encode())


def test_every_java_that_is_here_trusts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "certs").mkdir()
    for name, store in (("17", keystores.from_pem(OTHERS[0].encode())), ("21", pkcs12(*OTHERS))):
        (tmp_path / name / "lib/security").mkdir(parents=True)
        (tmp_path / name / "lib/security/cacerts").write_bytes(store)
    (tmp_path / "bundle.pem").write_text(OTHERS[1])
    monkeypatch.setattr(trust, "DIRECTORY", str(tmp_path / "trust"))
    monkeypatch.setattr(trust, "_BUNDLES", (str(tmp_path / "bundle.pem"),))
    monkeypatch.setattr(trust, "_HASHED", (str(tmp_path / "certs"),))
    monkeypatch.setattr(trust, "_LOCAL", str(tmp_path / "local"))
    monkeypatch.setattr(trust, "_CARRIED", ())
    monkeypatch.setattr(trust, "_JAVA", (f"{tmp_path}/*/lib/security/cacerts",))
    for _ in range(2):
        trust.install(OURS, "0a1b2c3d")
    assert entries((tmp_path / "17/lib/security/cacerts").read_bytes()) == [der(OTHERS[0]), der(OURS)]
    assert entries((tmp_path / "21/lib/security/cacerts").read_bytes()) == [der(each) for each in (*OTHERS, OURS)]
    assert entries((tmp_path / "trust/java.jks").read_bytes()) == [der(OTHERS[1]), der(OURS)]
    assert (tmp_path / "certs/hutch-0a1b2c3d.pem").readlink() == tmp_path / "local/hutch-0a1b2c3d.crt"


@pytest.mark.skipif(shutil.which("keytool") is None, reason="there is no Java here")
def test_javas_own_program_reads_it(tmp_path: Path) -> None:
    store = keystores.with_authority(keystores.from_pem("".join(OTHERS).encode()), OURS.encode())
    assert store is not None
    (tmp_path / "store").write_bytes(store)
    command = ["keytool", "-list", "-rfc", "-keystore", tmp_path / "store", "-storepass", "changeit"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "contains 3 entries" in said
    assert "".join(OURS.split()) in "".join(said.split())
