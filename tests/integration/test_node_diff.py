"""What differs between two points of a real sandbox: its image, snapshots with and without memory, and as it runs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.node_host import NodeHost

from hutch.model import new_id

pytestmark = [pytest.mark.root, pytest.mark.slow]

_EDIT = """
cd ~; mkdir -p repo/sub; printf 'one\\ntwo\\nthree\\n' > repo/text; head -c 5000 /dev/urandom > repo/binary
ln -s text repo/link; echo keep > repo/same
"""
_MORE = """
cd ~; printf 'one\\n2\\nthree\\n' > repo/text; rm repo/binary; echo new > repo/sub/new; chmod 600 repo/link repo/same
printf 'odd' > repo/$(printf 'a\\377b'); touch repo/sub
"""
_ROOT = "rm -rf /usr/share/doc/bash; echo more >> /etc/issue; touch /etc/passwd; rm /etc/motd; mkdir /etc/motd"


@pytest.fixture
def host(shared_node: NodeHost) -> NodeHost:
    return shared_node


def diff(host: NodeHost, box: dict[str, Any], start: str | None = None, end: str | None = None, **options: Any) -> Any:
    body = {"from_snapshot": start, "to_snapshot": end, **options}
    answer = host.call("POST", f"/sandboxes/{box['id']}/diff", body, timeout=120)
    assert answer.status == 200, answer.body.decode() + host.log()[-2000:]
    return answer.json()


def told(found: Any, below: str = "/home/user/repo") -> dict[str, str]:
    """Path and what has happened to it."""
    return {one["path"].removeprefix(below): one["change"] for one in found["changes"] if one["path"].startswith(below)}


_SECOND = {
    "/binary": "removed",
    "/same": "changed",
    "/sub/new": "added",
    "/text": "changed",
    "/a\\xffb": "added",
}


@pytest.mark.parametrize("kind", ["full", "disk"])
def test_what_has_changed_between_snapshots(host: NodeHost, kind: str) -> None:
    box = host.boot()
    try:
        points = []
        for step in (_EDIT, _MORE):
            host.exec(box, step)
            if step == _MORE:
                host.exec(box, _ROOT, user="root")
            if kind == "full":
                points.append(host.snapshot(box)["id"])
            else:
                points.append(new_id("snp"))
                host.pause(box, points[-1], kind="disk")
                box = host.resume(box)
        first, second = points
        alive = host.call("GET", "/health").json()["sandboxes"]
        for end in (second, None):
            found = diff(host, box, first, end, text=True)
            assert told(found) == _SECOND
            changes = {one["path"]: one for one in found["changes"]}
            text = changes["/home/user/repo/text"]
            assert text["text"].splitlines()[:2] == ["--- a/home/user/repo/text", "+++ b/home/user/repo/text"]
            assert "\n-two\n+2\n" in text["text"]
            assert changes["/home/user/repo/binary"]["no_text"] == "binary"
            assert changes["/home/user/repo/sub/new"]["text"].splitlines()[0] == "--- /dev/null"
            for name, sizes in (("text", [14, 12]), ("binary", [5000, None]), ("sub/new", [None, 4])):
                one = changes[f"/home/user/repo/{name}"]
                assert [one[side] and one[side]["size"] for side in ("before", "after")] == sizes
            mode = changes["/home/user/repo/same"]
            assert (mode["before"]["mode"], mode["after"]["mode"]) == ("0644", "0600")
            assert told(found, "/usr/share/doc/bash")[""] == "removed"
            assert told(found, "/usr/share/doc/bash")["/copyright"] == "removed"
            assert changes["/etc/motd"]["before"]["type"] == "file"
            assert changes["/etc/motd"]["after"]["type"] == "directory"
            assert "\n+more\n" in changes["/etc/issue"]["text"]  # the image's own on the one side
            assert "/etc/passwd" not in changes
        assert told(diff(host, box, second, second)) == {}
        assert told(diff(host, box, second, first))["/sub/new"] == "removed"
        whole = diff(host, box, None, first)
        assert told(whole) == dict.fromkeys(("", "/binary", "/link", "/same", "/sub", "/text"), "added")
        assert "/etc/hosts" not in {one["path"] for one in whole["changes"]}
        assert host.call("GET", "/health").json()["sandboxes"] == alive
    finally:
        host.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_long_answer_is_cut_and_counted(host: NodeHost) -> None:
    box = host.boot()
    try:
        host.exec(box, "mkdir ~/many; cd ~/many; for n in $(seq 300); do echo $n > f$n; done")
        found = diff(host, box, limit=10, path="/home/user/many/")
        assert (len(found["changes"]), found["added"], found["truncated"]) == (10, 301, True)
        asleep = host.pause(box)
        again = diff(host, box, limit=10, path="home/user/many")  # of what it stands on
        assert again["changes"] == found["changes"]
        assert host.sandbox(box["id"])["state"] == asleep["state"] == "paused"  # type: ignore[index]
    finally:
        host.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_hidden_copy_does_nothing_and_is_swept(host: NodeHost) -> None:
    box = host.boot()
    try:
        host.start_process(box, "while :; do date >> ~/log; sleep 0.01; done")
        host.exec(box, "sleep 0.3")
        point = host.snapshot(box)["id"]
        assert told(diff(host, box, None, point), "/home/user/log") == {"": "added"}
        assert told(diff(host, box, point), "/home/user/log") == {"": "changed"}
        host.call("DELETE", f"/snapshots/{point}")
        assert host.call("POST", f"/sandboxes/{box['id']}/diff", {"from_snapshot": point}).status == 404
    finally:
        host.call("DELETE", f"/sandboxes/{box['id']}")
