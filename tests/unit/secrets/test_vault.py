"""Values open only where they belong, and only with the key."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.secrets import Vault, VaultError


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.open_file(tmp_path / "master.key")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(text: str) -> None:
    vault = Vault(b"k" * 32)
    assert vault.unseal(vault.seal(text, "here"), "here") == text


def test_a_value_copied_to_another_row_does_not_open(vault: Vault) -> None:
    with pytest.raises(VaultError):
        vault.unseal(vault.seal("secret", "tasks:1"), "tasks:2")


@pytest.mark.parametrize("index", [0, 1, 12, 13, -1])
def test_a_changed_byte_is_noticed(vault: Vault, index: int) -> None:
    sealed = bytearray(vault.seal("secret", "x"))
    sealed[index] ^= 1
    with pytest.raises(VaultError):
        vault.unseal(bytes(sealed), "x")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + b"0" * 12, b"\x02" + b"0" * 40])
def test_what_was_never_sealed_is_refused(vault: Vault, sealed: bytes) -> None:
    with pytest.raises(VaultError):
        vault.unseal(sealed, "x")


def test_the_secret_is_in_neither_the_value_nor_an_error(vault: Vault) -> None:
    sealed = vault.seal("sk-very-secret", "x")
    assert b"sk-very" not in sealed
    with pytest.raises(VaultError) as caught:
        vault.unseal(sealed, "y")
    assert "sk-very" not in str(caught.value) + repr(vault)
    assert vault.seal("sk-very-secret", "x") != sealed


def test_the_key_file_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "master.key"
    sealed = Vault.open_file(path).seal("s", "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Vault.open_file(path).unseal(sealed, "x") == "s"
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with ThreadPoolExecutor(8) as pool:
        vaults = list(pool.map(lambda _: Vault.open_file(path), range(16)))
    sealed = vaults[0].seal("s", "x")
    assert all(vault.unseal(sealed, "x") == "s" for vault in vaults)


def test_a_key_file_that_others_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    Vault.open_file(path)
    path.chmod(0o640)
    with pytest.raises(VaultError, match="chmod 600"):
        Vault.open_file(path)


def test_a_key_file_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(os.urandom(31))
    path.chmod(0o600)
    with pytest.raises(VaultError, match="32 bytes"):
        Vault.open_file(path)
