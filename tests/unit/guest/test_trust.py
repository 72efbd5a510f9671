"""One more authority in every list that there is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hutch_guest import trust

PEM = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("etc/certs", "share", "site/certifi", "policies"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(trust, "DIRECTORY", str(tmp_path / "trust"))
    monkeypatch.setattr(trust, "_BUNDLES", (str(tmp_path / "etc/bundle.pem"), str(tmp_path / "etc/linked.pem")))
    monkeypatch.setattr(trust, "_HASHED", (str(tmp_path / "etc/certs"),))
    monkeypatch.setattr(trust, "_BROWSERS", (str(tmp_path / "policies"), str(tmp_path / "none")))
    monkeypatch.setattr(trust, "_LOCAL", str(tmp_path / "share/local"))
    monkeypatch.setattr(trust, "_CARRIED", (f"{tmp_path}/site/*/cacert.pem",))
    monkeypatch.setattr(trust, "_JAVA", ())
    (tmp_path / "etc/bundle.pem").write_text("others")
    (tmp_path / "etc/linked.pem").symlink_to("bundle.pem")
    (tmp_path / "site/certifi/cacert.pem").write_text("carried\n")
    return tmp_path


def test_it_stands_in_every_list_once(root: Path) -> None:
    for _ in range(2):
        trust.install(PEM, "0a1b2c3d")
    assert (root / "etc/bundle.pem").read_text() == f"others\n{PEM}"
    assert (root / "site/certifi/cacert.pem").read_text() == f"carried\n{PEM}"
    assert (root / "trust/bundle.pem").read_text() == f"others\n{PEM}"
    assert (root / "trust/authority.pem").read_text() == PEM
    assert {path.name for path in (root / "etc/certs").iterdir()} == {"0a1b2c3d.0", "hutch-0a1b2c3d.pem"}
    assert (root / "share/local/hutch-0a1b2c3d.crt").read_text() == PEM
    assert json.loads((root / "policies/hutch-authority.json").read_text()) == {"CACertificates": ["abc"]}
    assert not (root / "none").exists()
    assert (root / "trust/bundle.pem").stat().st_mode & 0o777 == 0o644


def test_nothing_that_lies_in_the_way_stops_it(root: Path) -> None:
    (root / "etc/bundle.pem").unlink()
    os.mkfifo(root / "etc/bundle.pem")  # whoever opened it would wait for ever
    (root / "etc/certs/0a1b2c3d.0").symlink_to("/etc/passwd")
    (root / "site/certifi/cacert.pem").unlink()
    (root / "site/certifi/cacert.pem").mkdir()
    trust.install(PEM, "0a1b2c3d")
    assert (root / "trust/bundle.pem").read_text() == PEM
    assert (root / "etc/certs/0a1b2c3d.1").read_text() == PEM
    assert b"CERTIFICATE" not in Path("/etc/passwd").read_bytes()
