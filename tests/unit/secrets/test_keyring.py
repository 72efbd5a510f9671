"""Keys that can be replaced, and a crash at every step of that."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hutch.secrets import Keyring, VaultError, key_number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "secrets.keys"


def test_what_is_sealed_opens_only_where_it_belongs(path: Path) -> None:
    keyring = Keyring.open_file(path)
    sealed = keyring.seal("ghp_very_secret", "secrets:a:B")
    assert b"very" not in sealed and "very" not in repr(keyring)
    assert Keyring.open_file(path).unseal(sealed, "secrets:a:B") == "ghp_very_secret"
    with pytest.raises(VaultError):
        keyring.unseal(sealed, "secrets:b:B")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(VaultError):
            keyring.unseal(bytes(changed), "secrets:a:B")
    for torn in (b"", sealed[:5], sealed[:20], b"\x01" + sealed[1:]):
        with pytest.raises(VaultError):
            keyring.unseal(torn, "secrets:a:B")


def test_an_older_key_opens_until_it_is_forgotten(path: Path) -> None:
    keyring = Keyring.open_file(path)
    old = keyring.seal("one", "x")
    number = keyring.add()
    new = keyring.seal("two", "x")
    assert (key_number(old), key_number(new)) == (number - 1, number)
    for each in (keyring, Keyring.open_file(path)):  # also after a crash here
        assert each.changing
        assert (each.unseal(old, "x"), each.unseal(new, "x")) == ("one", "two")
    keyring.forget_older()
    for each in (keyring, Keyring.open_file(path)):
        assert not each.changing
        assert each.unseal(new, "x") == "two"
        with pytest.raises(VaultError):
            each.unseal(old, "x")


def test_the_file_is_its_owners_alone(path: Path) -> None:
    Keyring.open_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(VaultError, match="chmod 600"):
        Keyring.open_file(path)


@pytest.mark.parametrize("text", ["", "{}", '{"current": 1, "keys": {}}', '{"current": 1, "keys": {"1": "ab"}}', "[1]"])
def test_a_damaged_file_is_not_replaced(path: Path, text: str) -> None:
    Keyring.open_file(path)
    path.write_text(text)
    with pytest.raises(VaultError, match="backup"):
        Keyring.open_file(path)
    assert path.read_text() == text
