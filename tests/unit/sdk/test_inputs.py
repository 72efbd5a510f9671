"""Inputs as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.errors import InvalidRequest
from hutch.model import GitInput, UrlInput
from hutch.sdk.inputs import LocalInput, parse_input, read_input


def test_urls_and_repositories() -> None:
    assert parse_input("https://x.org/a/data.csv?v=2") == UrlInput(
        type="url", url="https://x.org/a/data.csv?v=2", path="data.csv"
    )
    assert parse_input("git+https://x.org/me/repo.git@v1.2") == GitInput(
        type="git", url="https://x.org/me/repo.git", commit="v1.2", path="repo"
    )
    assert parse_input("git+https://me@x.org/me/repo") == GitInput(
        type="git", url="https://me@x.org/me/repo", commit="HEAD", path="repo"
    )
    with pytest.raises(InvalidRequest):
        parse_input("https://x.org/")


@pytest.mark.parametrize(
    ("text", "name"),
    [("repo", "repo"), ("repo:.", ""), ("repo:code", "code"), ("repo:a/b/", "a/b"), ("repo/", "repo")],
)
def test_where_a_directory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    (tmp_path / "repo").mkdir()
    monkeypatch.chdir(tmp_path)
    local = parse_input(text)
    assert isinstance(local, LocalInput)
    assert local.name == name
    local.check()


@pytest.mark.parametrize(
    ("text", "name"), [("f.txt", "f.txt"), ("f.txt:g.txt", "g.txt"), ("f.txt:d/", "d/f.txt"), ("f.txt:.", "f.txt")]
)
def test_where_a_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    (tmp_path / "f.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    local = parse_input(text)
    assert isinstance(local, LocalInput)
    assert local.name == name


def test_a_path_with_a_colon_that_exists_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("x")
    local = read_input(str(tmp_path / "a:b"))
    assert isinstance(local, LocalInput) and local.to is None and local.name == "a:b"


def test_the_current_directory_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LocalInput(Path()).name == tmp_path.name


@pytest.mark.parametrize("to", ["../up", "/abs", "a/../../b"])
def test_targets_outside_are_refused(tmp_path: Path, to: str) -> None:
    with pytest.raises(InvalidRequest):
        LocalInput(tmp_path, to).check()


def test_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        LocalInput(tmp_path / "nothing").check()
