"""The commands that save a sandbox and go back, against a scripted server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hutch.cli.timeline import branches
from tests.unit.cli.conftest import Hutch
from tests.unit.sdk.server import SANDBOX_ID, Server, problem, sandbox
from tests.unit.sdk.server import task as task_body

BOX = f"/v1/sandboxes/{SANDBOX_ID}"
OTHER = "sbx_" + "ab" * 11


def snapshot(letter: str, depth: int = 0, **members: Any) -> dict[str, Any]:
    return {
        "id": "snp_" + letter * 22,
        "sandbox_id": SANDBOX_ID,
        "reason": "manual",
        "created_at": "2026-11-21T12:00:00Z",
        "bytes": 3 << 20,
        "depth": depth,
        **members,
    }


TREE = [
    snapshot("a", sandbox_id=OTHER, reason="fork"),
    snapshot("b", 1, name="clean", parent="snp_" + "a" * 22),
    snapshot("c", 2, reason="safety", created_by="key_1"),
    snapshot("d", 1, turn=12, name="evil\x1b[2J", reason="pause"),
]


def scripted(server: Server, **box: Any) -> list[Any]:
    """The sandbox with its tree; what it is sent."""
    sent: list[Any] = []

    @server.on("GET", BOX)
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox(**box))

    @server.on("GET", f"{BOX}/timeline")
    async def tree(request: web.Request) -> web.StreamResponse:
        return web.json_response({"snapshots": TREE})

    def answers(call: str, body: Any, status: int = 200) -> None:
        @server.on("POST", f"{BOX}/{call}")
        async def answer(request: web.Request) -> web.StreamResponse:
            sent.append((call, await request.json() if request.can_read_body else None))
            return web.json_response(body, status=status)

    answers("pause", sandbox(state="paused"))
    answers("resume", sandbox())
    answers("rollback", sandbox())
    answers("fork", {"sandboxes": [sandbox(), sandbox(id=OTHER)]}, 201)
    answers("snapshots", snapshot("e", name="n", stopped_ms=81.6) | {"depth": None}, 201)
    return sent


def test_pause_and_resume(at: Server, hutch: Hutch) -> None:
    sent = scripted(at)
    assert hutch("pause", SANDBOX_ID).out == SANDBOX_ID + "\n"
    assert hutch("resume", SANDBOX_ID, "--json").json[0]["state"] == "running"
    hutch("pause", SANDBOX_ID, "--mode", "disk")
    assert sent == [("pause", None), ("resume", None), ("pause", {"mode": "disk"})]


def test_fallback(at: Server, hutch: Hutch) -> None:
    sent = scripted(at)
    for command in (("snapshot", SANDBOX_ID), ("fork", SANDBOX_ID), ("rollback", SANDBOX_ID, "clean")):
        hutch(*command, "--fallback")
    assert [(call, body["fallback"]) for call, body in sent] == [
        (call, "disk") for call in ("snapshots", "fork", "rollback")
    ]


def test_one_that_cannot_be_paused_does_not_keep_the_others_from_it(at: Server, hutch: Hutch) -> None:
    scripted(at)

    @at.on("GET", f"/v1/sandboxes/{OTHER}")
    async def other(request: web.Request) -> web.StreamResponse:
        return problem(409, "sandbox_not_running", "it is stopped")

    said = hutch("pause", OTHER, SANDBOX_ID)
    assert said.code == 1 and said.out == SANDBOX_ID + "\n" and f"{OTHER}: it is stopped" in said.err


def test_snapshot(at: Server, hutch: Hutch) -> None:
    sent = scripted(at)
    said = hutch("snapshot", SANDBOX_ID, "--name", "n")
    assert said.out == "snp_" + "e" * 22 + "\n" and "82 ms" in said.err
    assert sent == [("snapshots", {"name": "n"})]


def test_snapshots_are_deleted_by_name_or_the_beginning_of_an_id(at: Server, hutch: Hutch) -> None:
    scripted(at)
    gone: list[str] = []
    for letter in "bc":

        @at.on("DELETE", f"/v1/snapshots/snp_{letter * 22}")
        async def delete(request: web.Request) -> web.StreamResponse:
            gone.append(request.path.rpartition("/")[2])
            return web.Response(status=204)

    said = hutch("snapshot", "rm", SANDBOX_ID, "clean", "snp_c", "bbb")
    assert gone == said.out.split() == ["snp_" + "b" * 22, "snp_" + "c" * 22]
    gone.clear()
    assert hutch("snapshot", "rm", SANDBOX_ID, "clean", "nothing").code == 1
    assert hutch("snapshot", "rm", SANDBOX_ID).code == 2
    assert gone == [], "all are found before the first is deleted"


def test_rollback_to_a_turn(at: Server, hutch: Hutch) -> None:
    sent = scripted(at)
    task = "tsk_" + "a" * 22

    @at.on("GET", f"/v1/tasks/{task}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(task_body(id=task))

    said = hutch("rollback", task, "--turn", "7")
    assert said.out == SANDBOX_ID + "\n" and "back at turn 7" in said.err
    assert hutch("rollback", SANDBOX_ID, "--turn", "0").code == 0
    assert sent == [("rollback", {"turn": 7}), ("rollback", {"turn": 0})]
    assert hutch("rollback", SANDBOX_ID).code == 2
    assert hutch("rollback", SANDBOX_ID, "clean", "--turn", "1").code == 2


@pytest.mark.parametrize("given", ["clean", "snp_bb", "bbb", "snp_" + "b" * 22])
def test_rollback_to_a_name_or_the_beginning_of_an_id(at: Server, hutch: Hutch, given: str) -> None:
    sent = scripted(at)
    said = hutch("rollback", SANDBOX_ID, given)
    assert said.out == SANDBOX_ID + "\n" and "back at clean" in said.err
    assert sent == [("rollback", {"snapshot": "snp_" + "b" * 22})]


@pytest.mark.parametrize(("given", "words"), [("zzz", "no snapshot 'zzz'"), ("snp_", "beginning of 4 ids")])
def test_rollback_to_what_is_not_there_or_not_clear(at: Server, hutch: Hutch, given: str, words: str) -> None:
    sent = scripted(at)
    said = hutch("rollback", SANDBOX_ID, given)
    assert said.code == 1 and words in said.err and sent == []


def test_fork(at: Server, hutch: Hutch) -> None:
    sent = scripted(at)
    assert hutch("fork", SANDBOX_ID, "-n", "2", "--from", "clean").out.split() == [SANDBOX_ID, OTHER]
    assert hutch("fork", SANDBOX_ID, "--json").json[1]["id"] == OTHER
    assert sent == [("fork", {"count": 2, "from": "snp_" + "b" * 22}), ("fork", {"count": 1})]
    assert hutch("fork", SANDBOX_ID, "-n", "65").code == 2


def test_timeline_is_a_tree(at: Server, hutch: Hutch) -> None:
    scripted(at, state="paused", snapshot="snp_" + "d" * 22)
    lines = hutch("timeline", SANDBOX_ID).out.splitlines()
    assert [line.split("snp_")[0] for line in lines] == ["", "├─ ", "│  └─ ", "└─ "]
    assert f"of {OTHER[:12]}" in lines[0] and "clean" in lines[1] and "by key_1" in lines[2]
    assert lines[3].endswith("◀ here") and "turn 12" in lines[3] and "evil" in lines[3] and "\x1b" not in lines[3]
    assert [each["depth"] for each in hutch("timeline", SANDBOX_ID, "--json").json] == [0, 1, 2, 1]


def test_diff(at: Server, hutch: Hutch) -> None:
    scripted(at)
    asked: list[dict[str, str]] = []
    file = {"type": "file", "size": 2048, "mode": "0644", "uid": 0, "gid": 0}
    changes = [
        {"path": "/a\x1b[2J", "change": "added", "after": file},
        {"path": "/b", "change": "changed", "before": file, "after": {**file, "mode": "0600"}, "no_text": "binary"},
        {
            "path": "/c",
            "change": "changed",
            "before": file,
            "after": file,
            "text": "--- a/c\n+++ b/c\n- \x1b[1mx\n+  y\n",
        },
        {"path": "/d", "change": "removed", "before": {**file, "type": "directory", "size": None}},
    ]

    @at.on("GET", f"{BOX}/diff")
    async def diff(request: web.Request) -> web.StreamResponse:
        asked.append(dict(request.query))
        counts = {"added": 1, "changed": 2, "removed": 7, "truncated": True}
        return web.json_response({"from": "snp_" + "b" * 22, "to": None, "changes": changes, **counts})

    said = hutch("diff", SANDBOX_ID, "clean", "--text", "--path", "/x")
    assert said.out.splitlines() == [
        *("+ /a  2.0 KiB", "~ /b  0644 → 0600", "  (no text)", "~ /c  2.0 KiB"),
        *("--- a/c", "+++ b/c", "- x", "+  y", "- /d  directory"),
    ]
    assert "1 added, 2 changed, 7 removed" in said.err and "the first 4" in said.err
    assert hutch("diff", SANDBOX_ID, "--json").json["changes"][0]["change"] == "added"
    assert (asked[0]["from"], asked[0]["text"], asked[0]["path"]) == ("snp_" + "b" * 22, "true", "/x")
    assert "from" not in asked[1]


def test_branches_of_several_roots() -> None:
    assert branches([0, 1, 0, 1, 2, 2, 1]) == ["", "└─ ", "", "├─ ", "│  ├─ ", "│  └─ ", "└─ "]
    assert branches([]) == []


def test_run_from_a_snapshot_names_no_template(at: Server, hutch: Hutch) -> None:
    bodies = []

    @at.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return problem(404, "snapshot_not_found")

    assert hutch("run", "--from", "snp_x", "--idle-timeout", "5m", "--checkpoints", "1m", "--", "ls").code == 1
    (body,) = bodies
    assert body["checkpoints"] == 60
    assert body["from"] == "snp_x" and body["idle_timeout"] == 300 and "template" not in body
    json.dumps(body)


def everything(server: Server) -> None:
    @server.on("GET", "/v1/snapshots")
    async def all(request: web.Request) -> web.Response:
        return web.json_response({"snapshots": TREE})

    @server.on("GET", "/v1/snapshots/usage")
    async def usage(request: web.Request) -> web.Response:
        return web.json_response({"snapshots": 4, "logical_bytes": 12 << 20, "stored_bytes": 300 << 10})


def test_all_snapshots_are_listed_with_what_they_take(at: Server, hutch: Hutch) -> None:
    everything(at)
    said = hutch("snapshot", "ls")
    assert said.code == 0 and "12.0 MiB in 4 take 300 KiB in the store" in said.err
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == [f"snp_{letter * 8}" for letter in "abcd"]
    assert "\x1b[2J" not in said.out
    found = json.loads(hutch("snapshot", "ls", "--json").out)
    assert [each["id"] for each in found["snapshots"]] == [each["id"] for each in TREE]
    assert found["usage"]["stored_bytes"] == 300 << 10


def test_snapshots_of_a_sandbox_that_is_gone_are_deleted_by_their_ids(at: Server, hutch: Hutch) -> None:
    everything(at)
    deleted = []

    @at.on("DELETE", "/v1/snapshots/snp_" + "c" * 22)
    async def delete(request: web.Request) -> web.Response:
        deleted.append(request.path)
        return web.Response(status=204)

    assert hutch("snapshot", "rm", "snp_ccc").code == 0
    assert len(deleted) == 1


def test_a_snapshot_goes_into_a_file_and_comes_back(at: Server, hutch: Hutch, tmp_path: Path) -> None:
    everything(at)
    sent = []

    @at.on("GET", f"/v1/snapshots/snp_{'b' * 22}/archive")
    async def archive(request: web.Request) -> web.Response:
        return web.Response(body=b"tar and seal")

    @at.on("POST", "/v1/snapshots/import")
    async def take_in(request: web.Request) -> web.Response:
        sent.append(await request.read())
        return web.json_response(snapshot("e", sandbox_id="") | {"depth": None}, status=201)

    file = tmp_path / "clean.tar"
    assert hutch("snapshot", "export", "clean", str(file)).code == 0
    assert file.read_bytes() == b"tar and seal"
    said = hutch("snapshot", "import", str(file))
    assert said.code == 0 and said.out.strip() == "snp_" + "e" * 22
    assert sent == [b"tar and seal"]
    assert hutch("snapshot", "import", str(tmp_path / "none")).code == 2
