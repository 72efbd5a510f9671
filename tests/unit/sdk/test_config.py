"""Where the server is, and with which key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hutch.errors import Unauthorized
from hutch.sdk.config import DEFAULT_URL, Server, credentials_path, find_server, load_credentials, save_credentials


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HUTCH_URL", raising=False)
    monkeypatch.delenv("HUTCH_API_KEY", raising=False)


def test_saved_credentials_are_readable_by_this_user_only() -> None:
    path = save_credentials(Server("http://h:1", "hk_1"))
    assert path == credentials_path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_credentials() == Server("http://h:1", "hk_1") == find_server()


def test_arguments_go_over_the_environment_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save_credentials(Server("http://file", "hk_file"))
    monkeypatch.setenv("HUTCH_URL", "http://env/")
    monkeypatch.setenv("HUTCH_API_KEY", "hk_env")
    assert find_server() == Server("http://env", "hk_env")
    assert find_server("http://arg", "hk_arg") == Server("http://arg", "hk_arg")


def test_saved_key_is_not_sent_to_another_server() -> None:
    save_credentials(Server("http://mine", "hk_mine"))
    with pytest.raises(Unauthorized) as caught:
        find_server("http://someone.else")
    assert "hk_mine" not in str(caught.value)
    assert find_server("http://mine/").api_key == "hk_mine"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x"}', "null"])
def test_broken_file_is_as_good_as_none(text: str) -> None:
    credentials_path().parent.mkdir(parents=True)
    credentials_path().write_text(text)
    assert load_credentials() is None
    with pytest.raises(Unauthorized, match="no API key"):
        find_server()


def test_saving_does_not_follow_a_link_to_somewhere_else(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    credentials_path().parent.mkdir(parents=True)
    credentials_path().symlink_to(victim)
    save_credentials(Server(DEFAULT_URL, "hk_1"))
    assert victim.read_text() == "precious"
    assert json.loads(credentials_path().read_text())["api_key"] == "hk_1"
