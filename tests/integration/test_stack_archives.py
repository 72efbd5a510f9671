"""A snapshot as one file, through the whole of Hutch: it outlives its sandbox, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.stack import Stack

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.up()
        yield stack
    finally:
        stack.close()


def test_what_was_exported_goes_on_in_a_new_sandbox_when_all_else_is_gone(stack: Stack) -> None:
    box, _ = stack.make()
    stack.write(box, "kept", b"x" * 1000)
    stack.add(box, 41)
    taken = stack.change(box, "snapshots", {})
    assert taken["id"] in [each["id"] for each in stack.get("/v1/snapshots")["snapshots"]]
    answer = stack.ask("GET", f"/v1/snapshots/{taken['id']}/archive")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-tar"
    expected = stack.contents(box)
    stack.delete(box)
    stack.must(stack.ask("DELETE", f"/v1/snapshots/{taken['id']}"))
    assert stack.get("/v1/snapshots")["snapshots"] == []

    brought = stack.must(stack.ask("POST", "/v1/snapshots/import", content=answer.content))
    assert brought["id"] != taken["id"] and brought["sandbox_id"] == "" and brought["parent"] is None
    assert stack.get("/v1/snapshots/usage")["snapshots"] == 1
    new = stack.must(stack.ask("POST", "/v1/sandboxes", {"from": brought["id"]}))["id"]
    assert stack.contents(new) == expected
    assert stack.add(new, 1) == 42
    stack.delete(new)
    stack.must(stack.ask("DELETE", f"/v1/snapshots/{brought['id']}"))


@pytest.mark.parametrize("pause", [{"mode": "disk"}, {"fallback": "disk"}], ids=["disk", "memory-and-disk"])
def test_a_disk_that_was_kept_apart_is_there_again_after_an_import(stack: Stack, pause: dict[str, str]) -> None:
    box, _ = stack.make()
    stack.write(box, "kept", b"x" * 1000)
    expected = stack.contents(box)
    stack.change(box, "pause", pause)
    (taken,) = stack.get(f"/v1/sandboxes/{box}/snapshots")["snapshots"]
    archive = stack.ask("GET", f"/v1/snapshots/{taken['id']}/archive").content
    stack.delete(box)

    brought = stack.must(stack.ask("POST", "/v1/snapshots/import", content=archive))
    assert (brought["kind"], brought["disk"]) == (taken["kind"], True)
    new = stack.must(stack.ask("POST", "/v1/sandboxes", {"from": brought["id"]}))["id"]
    now = stack.contents(new)
    assert now == (expected if brought["kind"] == "full" else expected.without_memory())
    stack.write(new, "later", b"y")
    found = stack.get(f"/v1/sandboxes/{new}/diff?from={brought['id']}&path=/home/user/kept")
    assert [(each["path"], each["change"]) for each in found["changes"] if each["path"].endswith("later")] == [
        ("/home/user/kept/later", "added")
    ]
    before = stack.get(f"/v1/sandboxes/{new}/diff?to={brought['id']}&path=/home/user/kept/kept")
    assert [each["path"] for each in before["changes"]] == ["/home/user/kept/kept"]
    stack.delete(new)
    stack.must(stack.ask("DELETE", f"/v1/snapshots/{brought['id']}"))


def test_a_file_that_was_changed_is_refused_and_leaves_nothing(stack: Stack) -> None:
    box, _ = stack.make()
    taken = stack.change(box, "snapshots", {})["id"]
    file = bytearray(stack.ask("GET", f"/v1/snapshots/{taken}/archive").content)
    file[len(file) // 2] ^= 1
    answers = [stack.ask("POST", "/v1/snapshots/import", content=bytes(file))]
    file[len(file) // 2] ^= 1
    answers.append(stack.ask("POST", "/v1/snapshots/import", content=bytes(file[:-1])))
    answers.append(stack.ask("POST", "/v1/snapshots/import", content=b""))
    for answer in answers:
        assert answer.status_code == 400 and answer.json()["code"] == "invalid_archive", answer.text
    assert [each["id"] for each in stack.get("/v1/snapshots")["snapshots"]] == [taken]
    assert list((stack.node_dir / "snapshots" / "tmp").iterdir()) == []
    stack.delete(box)
