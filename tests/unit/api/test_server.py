"""How the first key is handed over, and what of the caller's environment the server gets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hutch.api import launch
from hutch.api.server import deliver_first_key
from hutch.settings import Settings


def test_first_key_goes_to_the_file_that_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    monkeypatch.setenv("HUTCH_FIRST_KEY_FILE", str(path))
    deliver_first_key("hk_first")
    assert path.read_text() == "hk_first\n" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_held_more_holds_the_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text("x" * 1000)
    path.chmod(0o644)
    monkeypatch.setenv("HUTCH_FIRST_KEY_FILE", str(path))
    deliver_first_key("hk_first")
    assert path.read_text() == "hk_first\n" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_first_key_goes_through_the_descriptor_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setenv("HUTCH_FIRST_KEY_FILE", str(writer))
    deliver_first_key("hk_first")
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "hk_first\n"


def test_first_key_is_printed_where_nothing_was_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HUTCH_FIRST_KEY_FILE", raising=False)
    deliver_first_key("hk_first")
    assert "hk_first" in capsys.readouterr().out


def test_server_gets_its_settings_and_no_keys_of_its_caller(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    passed = launch._environment(settings)
    assert passed["HUTCH_DATA_DIR"] == str(tmp_path / "data") and passed["https_proxy"] == "http://proxy:3128"
    assert "ANTHROPIC_API_KEY" not in passed and "AWS_SECRET_ACCESS_KEY" not in passed
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings, "what is passed on is read again as it was"
