"""What a guest says is checked before it is believed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from hutch.errors import DiskFull, ExecNotFound, FileMissing, GuestUnavailable, HutchError, InvalidPath, InvalidRequest
from hutch.fleet.guest import ProcessSpec, exec_state, exit_state, limit_breach
from hutch.fleet.guest_files import entry_info, file_info
from hutch.fleet.transport import _error
from hutch.model import PtySize

ENTRY = {"name": "a", "path": "/a", "size": "3", "mode": 420, "owner": "u", "group": "g"}


def error(status: int, body: Any, path: str = "/hutch/files") -> HutchError:
    return _error(status, body if isinstance(body, bytes) else json.dumps(body).encode(), path)


def test_errors_of_the_guest_become_ours() -> None:
    assert isinstance(error(507, {"code": "disk_full", "message": "full"}), DiskFull)
    assert isinstance(error(404, {"code": "exec_not_found", "message": "no"}), ExecNotFound)
    assert isinstance(error(404, {"code": "not_found", "message": "no"}, "/filesystem.Filesystem/Stat"), FileMissing)
    assert isinstance(error(400, {"code": "invalid_argument"}, "/filesystem.Filesystem/Stat"), InvalidPath)


@pytest.mark.parametrize("code", ["unauthorized", "llm_auth_failed", "idempotency_conflict", "unknown_template"])
def test_a_guest_cannot_speak_for_the_server(code: str) -> None:
    assert isinstance(error(401, {"code": code, "message": "x"}), GuestUnavailable)
    assert isinstance(error(400, {"code": code, "message": "x"}), InvalidRequest)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"code": 5}', b"[" * 100_000, b'{"message": null}'])
def test_an_error_without_sense_is_the_guests_fault(body: bytes) -> None:
    assert isinstance(error(500, body), GuestUnavailable)


def test_long_messages_are_cut() -> None:
    assert len(error(400, {"code": "invalid_request", "message": "x" * 50_000}).detail) <= 2000


def test_a_state_is_read_and_what_it_has_beside_is_left() -> None:
    found = {"id": "exe_1", "pid": 3, "command": "ls", "running": False, "exit_code": 137, "signal": "SIGKILL",
             "started_at": 1000.5, "ended_at": 1001, "output_end": 9, "new_field": 1}  # fmt: skip
    state = exec_state(found)
    assert (state.exit_code, state.signal) == (137, "SIGKILL")
    assert state.started_at is not None
    assert state.started_at.timestamp() == 1000.5


@pytest.mark.parametrize("found", [None, [], {}, {"id": "x"}, {"id": 1, "running": True}, {"id": "x", "running": "?"}])
def test_a_state_without_sense_is_the_guests_fault(found: Any) -> None:
    with pytest.raises(GuestUnavailable):
        exec_state(found)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"null", b'{"limit": "love"}'])
def test_broken_json_in_frames_is_the_guests_fault(payload: bytes) -> None:
    with pytest.raises(GuestUnavailable):
        exit_state(payload)
    with pytest.raises(GuestUnavailable):
        limit_breach(payload)


def test_files_in_both_of_the_guests_forms() -> None:
    envd = ENTRY | {"type": "FILE_TYPE_FILE", "modifiedTime": "2026-01-02T03:04:05.678901234Z"}
    ours = ENTRY | {"type": "file", "modified_at": "2026-01-02T03:04:05Z", "target": None}
    assert entry_info(envd).modified_at.year == 2026
    assert file_info(ours).size == entry_info(envd).size == 3


def test_a_link_is_a_link_whatever_it_leads_to() -> None:
    found = entry_info(ENTRY | {"type": "FILE_TYPE_DIRECTORY", "isSymlink": True, "symlinkTarget": "/b"})
    assert (found.type, found.target) == ("symlink", "/b")


@pytest.mark.parametrize("when", [None, "99999-01-01T00:00:00Z", "-0001-01-01T00:00:00Z", "soon"])
def test_a_file_with_an_impossible_time_is_still_listed(when: str | None) -> None:
    assert entry_info(ENTRY | {"type": "FILE_TYPE_FILE", "modifiedTime": when}).modified_at.year == 1970


def test_a_name_that_is_no_text_is_shown() -> None:
    assert file_info(ENTRY | {"type": "file", "name": "caf\udce9"}).name == "caf?"


@pytest.mark.parametrize("found", [None, [], {}, {"name": 1}, ENTRY | {"type": "file", "size": "much"}])
def test_a_file_without_sense_is_the_guests_fault(found: Any) -> None:
    with pytest.raises(GuestUnavailable):
        file_info(found)


def test_a_process_as_the_guest_wants_it() -> None:
    spec = ProcessSpec("exe_1", shell="ls", stdin=b"in", pty=PtySize(cols=3, rows=4), keep_all=True)
    assert spec.to_json() == {
        "id": "exe_1", "argv": None, "shell": "ls", "env": {}, "cwd": None, "user": None, "timeout": None,
        "stdin": {"data": base64.b64encode(b"in").decode()}, "pty": {"cols": 3, "rows": 4}, "retain": "all",
    }  # fmt: skip
    assert ProcessSpec("e", argv=["a"], open_stdin=True).to_json()["stdin"] == "pipe"
    assert ProcessSpec("e", argv=["a"]).to_json()["stdin"] == "none"
