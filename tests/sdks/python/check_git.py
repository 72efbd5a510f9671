"""The git helper."""

from __future__ import annotations

from e2b import Sandbox


def test_a_repository_from_init_to_push(sandbox: Sandbox) -> None:
    git, box = sandbox.git, sandbox
    box.commands.run("git init -q --bare /tmp/remote.git")
    git.init("repo", initial_branch="main")
    git.configure_user("Me", "me@example.org")
    box.files.write("repo/file", "1")
    assert [one.name for one in git.status("repo").file_status] == ["file"]
    git.add("repo")
    git.commit("repo", "first")
    git.create_branch("repo", "topic")
    assert "topic" in git.branches("repo").branches
    git.checkout_branch("repo", "main")
    git.delete_branch("repo", "topic", force=True)
    git.remote_add("repo", "origin", "file:///tmp/remote.git")
    assert git.remote_get("repo", "origin") == "file:///tmp/remote.git"
    git.push("repo", "origin", "main")
    git.clone("file:///tmp/remote.git", "copy")
    assert box.files.read("copy/file") == "1"
    box.files.write("copy/file", "2")
    git.restore("copy", ["file"])
    git.reset("copy", mode="hard")
    git.pull("copy")
    git.set_config("color.ui", "never", scope="local", path="copy")
    assert git.get_config("color.ui", scope="local", path="copy") == "never"
