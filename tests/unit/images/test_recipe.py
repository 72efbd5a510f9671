"""Recipes: what is refused and how it is told, and what changes the key of a root file system."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import HutchError, InvalidTemplate, UnknownTemplate
from hutch.images import carrying, recipe
from hutch.images.recipe import Recipes
from hutch.model import Recipe

RESOURCES = "[resources]\ncpus = 1\nmemory_mib = 512\ndisk_mib = 1024\npids = 128\n"


def write(folder: Path, name: str, text: str = "") -> Path:
    path = folder / name / recipe.FILE
    path.parent.mkdir(parents=True)
    path.write_text(text + RESOURCES)
    return path


def test_the_built_in_templates_are_valid() -> None:
    recipes = Recipes(recipe.directories(None))
    assert {"standard", "claude-code", "codex"} <= set(recipes.names())
    for name in recipes.names():
        assert recipes.chain(name)[-1].name == name


def test_the_name_is_that_of_the_directory(tmp_path: Path) -> None:
    write(tmp_path, "mine")
    assert Recipes([tmp_path]).load("mine").name == "mine"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('pakages = ["git"]\n', "pakages"),
        ('packages = "git"\n', "packages"),
        ("steps = [1]\n", "steps.0"),
        ('name = "other"\n', "name"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, text: str, field: str) -> None:
    path = write(tmp_path, "mine", text)
    with pytest.raises(InvalidTemplate) as caught:
        Recipes([tmp_path]).load("mine")
    assert caught.value.extra == {"file": str(path), "field": field}
    assert str(path) in caught.value.detail
    assert field in caught.value.detail


def test_resources_must_be_sane(tmp_path: Path) -> None:
    path = write(tmp_path, "mine")
    path.write_text(RESOURCES.replace("512", "-1"))
    with pytest.raises(InvalidTemplate) as caught:
        Recipes([tmp_path]).load("mine")
    assert caught.value.extra["field"] == "resources.memory_mib"


@pytest.mark.parametrize("content", [b"packages = [", b"\xff\xfe", b"#" * (2 << 20)])
def test_a_file_that_is_no_recipe_is_an_error_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, "mine")
    path.write_bytes(content)
    with pytest.raises(InvalidTemplate) as caught:
        Recipes([tmp_path]).load("mine")
    assert caught.value.extra["file"] == str(path)


def test_an_unknown_template_is_told_with_the_known_ones(tmp_path: Path) -> None:
    write(tmp_path, "mine")
    with pytest.raises(UnknownTemplate, match="there are: mine"):
        Recipes([tmp_path]).load("yours")


@given(st.text())
def test_no_name_leads_out_of_the_templates(name: str) -> None:
    with pytest.raises(UnknownTemplate):
        Recipes([Path(__file__).parent]).load(name)


@pytest.mark.parametrize("name", ["../mine", "mine/", "./mine", "", "/etc", "a\0b", "a" * 256])
def test_a_path_is_not_a_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, "mine")
    with pytest.raises(UnknownTemplate):
        Recipes([tmp_path / "mine", tmp_path]).load(name)


def test_the_operators_own_hides_the_built_in_one(tmp_path: Path) -> None:
    write(tmp_path, "standard", 'description = "ours"\n')
    assert Recipes(recipe.directories(tmp_path)).load("standard").description == "ours"


def test_a_chain_begins_at_the_bare_system(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", 'base = "a"\n')
    write(tmp_path, "c", 'base = "b"\n')
    assert [part.name for part in Recipes([tmp_path]).chain("c")] == ["a", "b", "c"]


def test_a_base_must_exist(tmp_path: Path) -> None:
    write(tmp_path, "mine", 'base = "yours"\n')
    with pytest.raises(InvalidTemplate, match="does not exist"):
        Recipes([tmp_path]).chain("mine")


def test_a_template_is_not_its_own_base(tmp_path: Path) -> None:
    write(tmp_path, "a", 'base = "b"\n')
    write(tmp_path, "b", 'base = "a"\n')
    with pytest.raises(InvalidTemplate, match="based on itself"):
        Recipes([tmp_path]).chain("a")


def test_environment_user_and_workdir_are_inherited(tmp_path: Path) -> None:
    write(tmp_path, "a", 'user = "root"\nworkdir = "/srv"\nenv = { X = "1", Y = "1" }\n')
    write(tmp_path, "b", 'base = "a"\nworkdir = "/opt"\nenv = { Y = "2" }\n')
    top = Recipes([tmp_path]).chain("b")[-1]
    assert (top.user, top.workdir, top.env) == ("root", "/opt", {"X": "1", "Y": "2"})


def made(**fields: object) -> Recipe:
    resources = {"cpus": 1, "memory_mib": 512, "disk_mib": 1024, "pids": 128}
    return Recipe.model_validate({"name": "mine", "resources": resources, **fields})


def test_the_key_covers_what_is_built_and_nothing_else() -> None:
    plain = recipe.key([made()])
    assert plain == recipe.key([made(description="other", agents=["codex"])])
    others = [
        made(packages=["git"]),
        made(pip=["x"]),
        made(npm=["x"]),
        made(steps=["x"]),
        made(suite="trixie"),
        made(user="root"),
        made(workdir="/"),
        made(env={"A": "1"}),
    ]
    assert len({plain, *(recipe.key([other]) for other in others)}) == len(others) + 1


def test_the_key_covers_the_bases() -> None:
    top = made(base="standard")
    assert recipe.key([made(), top]) != recipe.key([made(packages=["git"]), top])


def test_every_error_is_ours(tmp_path: Path) -> None:
    (tmp_path / "mine" / recipe.FILE).mkdir(parents=True)
    with pytest.raises(HutchError):
        Recipes([tmp_path]).load("mine")


def test_a_folder_of_files_counts_by_its_content(tmp_path: Path) -> None:
    write(tmp_path, "mine", 'files = "carried"\n')
    carried = tmp_path / "mine" / "carried" / "opt"
    carried.mkdir(parents=True)
    (carried / "tool").write_text("one")
    recipes = Recipes([tmp_path])
    first = recipe.key(recipes.chain("mine"))
    (carried / "__pycache__").mkdir()
    (carried / "__pycache__" / "tool.pyc").write_text("compiled")
    os.utime(carried / "tool", (1, 1))
    assert recipe.key(recipes.chain("mine")) == first
    (carried / "tool").chmod(0o755)
    runnable = recipe.key(recipes.chain("mine"))
    (carried / "tool").write_text("two")
    assert len({first, runnable, recipe.key(recipes.chain("mine"))}) == 3


@pytest.mark.parametrize("files", ["missing", "..", "/etc"])
def test_a_folder_of_files_is_beside_the_recipe(tmp_path: Path, files: str) -> None:
    write(tmp_path, "mine", f'files = "{files}"\n')
    with pytest.raises(InvalidTemplate, match="files"):
        Recipes([tmp_path]).load("mine")


def test_files_are_packed_as_roots(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "run").write_text("#!/bin/sh")
    (folder / "bin" / "run").chmod(0o700)
    (folder / "bin" / "link").symlink_to("run")
    carrying.pack(folder, tmp_path / "files.tar")
    with tarfile.open(tmp_path / "files.tar") as tar:
        found = {entry.name: (entry.uid, entry.uname, oct(entry.mode)) for entry in tar if not entry.issym()}
        assert found == {"bin": (0, "root", "0o755"), "bin/run": (0, "root", "0o755")}
        assert tar.getmember("bin/link").linkname == "run"


def test_a_file_that_has_changed_is_read_anew_and_one_that_has_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipes = write(tmp_path, "mine", 'description = "a"\n'), Recipes([tmp_path])
    assert recipes.load("mine").description == "a"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self: pytest.fail("it is read again"))
        assert recipes.load("mine").description == "a"
    path.unlink()
    path.write_text('description = "b"\n' + RESOURCES)
    assert recipes.load("mine").description == "b"
    path.unlink()
    with pytest.raises(UnknownTemplate):
        recipes.load("mine")


@pytest.mark.parametrize("name", ["", ".", "..", "mine/../mine", "/mine", "mine/", "mine\0"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    write(tmp_path, "mine")
    with pytest.raises(UnknownTemplate):
        Recipes([tmp_path / "mine", tmp_path]).load(name)


def test_what_a_recipe_carries_is_found_in_the_order_of_its_parts_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/__pycache__").mkdir()
    for name in ("a/z", "a.b", "a/.hidden", "a/__pycache__/c.pyc"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a")
    assert [name for name, _ in carrying._walk(tmp_path)] == ["a", "a/.hidden", "a/z", "a.b", "link"]
    first = carrying.digest(tmp_path)
    (tmp_path / "a/__pycache__/c.pyc").write_text("other")
    assert carrying.digest(tmp_path) == first
    (tmp_path / "a/z").chmod(0o755)
    assert carrying.digest(tmp_path) != first
