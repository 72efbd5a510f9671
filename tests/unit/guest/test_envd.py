"""envd's wire where the SDK does not reach: odd requests, exact errors. (The SDK itself: tests/conformance.)"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch_guest.access import sign
from hutch_guest.envd.multipart import Multipart, boundary_of
from hutch_guest.envd.process import end_event
from hutch_guest.errors import InvalidRequest
from hutch_guest.files.entries import permissions, timestamp
from tests.unit.guest.client import TOKEN, Guest

STREAM = {"Content-Type": "application/connect+json"}
JSON = {"Content-Type": "application/json"}


def envelope(message: object, flags: int = 0) -> bytes:
    payload = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(payload)) + payload


def messages(raw: bytes) -> list[tuple[int, Any]]:
    found = []
    while raw:
        flags, length = struct.unpack_from(">BI", raw)
        found.append((flags, json.loads(raw[5 : 5 + length])))
        raw = raw[5 + length :]
    return found


def unary(guest: Guest, method: str, body: dict[str, Any], **headers: str) -> Any:
    return guest.call("POST", f"/{method}", body, JSON | headers)


def start(guest: Guest, *argv: str, headers: dict[str, str] | None = None, **options: Any) -> list[tuple[int, Any]]:
    body = envelope({"process": {"cmd": argv[0], "args": list(argv[1:])}, **options})
    reply = guest.call("POST", "/process.Process/Start", body, STREAM | (headers or {}))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/connect+json"
    return messages(reply.body)


def test_the_whole_conversation_of_a_command(guest: Guest) -> None:
    first, data, end, last = start(guest, "sh", "-c", "printf hi; exit 2", stdin=False)
    assert first == (0, {"event": {"start": {"pid": first[1]["event"]["start"]["pid"]}}})
    assert data == (0, {"event": {"data": {"stdout": base64.b64encode(b"hi").decode()}}})
    assert end[1]["event"]["end"] == {
        "exitCode": 2,
        "exited": True,
        "status": "exit status 2",
        "error": "exit status 2",
    }
    assert last == (2, {})


def test_death_by_signal_in_gos_words() -> None:
    state = {"signal": "SIGKILL", "exit_code": 137}
    assert end_event(state) == {
        "exitCode": -1,
        "exited": False,
        "status": "signal: killed",
        "error": "signal: killed",
    }
    assert end_event({"signal": "SIGTERM", "exit_code": 143})["status"] == "signal: terminated"
    assert "error" not in end_event({"signal": None, "exit_code": 0})


def test_streaming_errors_are_told_in_the_last_envelope(guest: Guest) -> None:
    assert start(guest, "true", cwd="x")[-1] == (2, {})
    [(flags, body)] = start(guest, "/no/such/program")
    assert (flags, body["error"]["code"]) == (2, "invalid_argument")
    credentials = {"Authorization": "Basic " + base64.b64encode(b"nemo:").decode()}
    [(flags, body)] = start(guest, "true", headers=credentials)
    assert body["error"] == {"code": "unauthenticated", "message": "invalid username: 'nemo'"}
    body = messages(guest.call("POST", "/process.Process/Connect", envelope({"process": {"pid": 7}}), STREAM).body)[0][
        1
    ]
    assert body["error"] == {"code": "not_found", "message": "process with pid 7 not found"}


def test_deadline_ends_the_stream_and_the_process(guest: Guest) -> None:
    found = start(guest, "sleep", "30", headers={"Connect-Timeout-Ms": "300"})
    assert found[-1][1]["error"]["code"] == "deadline_exceeded"
    assert not any("end" in message.get("event", {}) for _, message in found)
    time.sleep(0.1)
    running = unary(guest, "process.Process/List", {}).json["processes"]
    assert not [one for one in running if one["config"]["args"] == ["30"]]


def test_keepalives(guest: Guest) -> None:
    found = start(guest, "sleep", "1.5", headers={"Keepalive-Ping-Interval": "1"})
    assert (0, {"event": {"keepalive": {}}}) in found


def test_unary_errors(guest: Guest) -> None:
    for method, body, status, code in [
        ("process.Process/Nope", {}, 501, "unimplemented"),
        ("process.Process/SendSignal", {"process": {"pid": 7}, "signal": "SIGNAL_SIGKILL"}, 404, "not_found"),
        ("process.Process/CloseStdin", {"process": {"tag": "nemo"}}, 404, "not_found"),
        ("filesystem.Filesystem/Stat", {"path": "/no/such"}, 404, "not_found"),
        ("filesystem.Filesystem/Stat", {"path": 5}, 400, "invalid_argument"),
        ("filesystem.Filesystem/Remove", {"path": "/"}, 400, "invalid_argument"),
        ("filesystem.Filesystem/MakeDir", {"path": "/tmp"}, 409, "already_exists"),
        ("filesystem.Filesystem/ListDir", {"path": "/", "depth": "x"}, 400, "invalid_argument"),
        ("filesystem.Filesystem/GetWatcherEvents", {"watcherId": "w1"}, 404, "not_found"),
        ("filesystem.Filesystem/CreateWatcher", {"path": "/etc/passwd"}, 400, "invalid_argument"),
    ]:
        reply = unary(guest, method, body)
        assert (reply.status, reply.json["code"]) == (status, code), method
    reply = guest.call("POST", "/process.Process/List", {}, {"X-Access-Token": "wrong"})
    assert (reply.status, reply.json["code"]) == (401, "unauthenticated")


def test_input_of_the_wrong_kind(guest: Guest) -> None:
    state = guest.start("cat", stdin="pipe")
    selector = {"process": {"pid": state["pid"]}}
    for body, code in [
        ({"input": {"pty": "eA=="}}, "internal"),
        ({"input": {"stdin": "%"}}, "invalid_argument"),
        ({"input": {"stdin": 5}}, "invalid_argument"),
    ]:
        assert unary(guest, "process.Process/SendInput", selector | body).json["code"] == code
    assert unary(guest, "process.Process/Update", selector | {"pty": {"size": {"cols": 1, "rows": 1}}}).status == 500
    assert unary(guest, "process.Process/SendSignal", selector | {"signal": "SIGNAL_X"}).status == 501
    wire = envelope({"start": selector}) + envelope({"keepalive": {}})
    wire += envelope({"data": {"input": {"stdin": base64.b64encode(b"streamed").decode()}}})
    reply = guest.call("POST", "/process.Process/StreamInput", wire, STREAM)
    assert messages(reply.body) == [(0, {}), (2, {})]
    assert unary(guest, "process.Process/CloseStdin", selector).status == 200
    assert unary(guest, "process.Process/SendInput", selector | {"input": {"stdin": "eA=="}}).json["code"] in (
        "internal",
        "not_found",
    )
    assert b"".join(data for kind, _, data in guest.frames(state["id"]) if kind == 1) == b"streamed"


def test_broken_envelopes(guest: Guest) -> None:
    for body in (
        b"\0\0\0\0\x05{}",
        b"\1" + struct.pack(">I", 2) + b"{}",
        b"\0" + struct.pack(">I", 1 << 31),
        b"\0\0\0\0\3[1]",
    ):
        reply = guest.call("POST", "/process.Process/Start", body, STREAM)
        assert reply.status == 200
        assert "error" in messages(reply.body)[-1][1]


# files


def test_raw_gzipped_upload_and_labels(guest: Guest, tmp_path: Path) -> None:
    headers = {"Content-Type": "application/octet-stream", "X-Metadata-Kind": "test", "Content-Encoding": "gzip"}
    data = os.urandom(100) * 50_000
    reply = guest.call("POST", "/files", gzip.compress(data), headers, path=tmp_path / "f")
    assert reply.json == [{"name": "f", "type": "file", "path": str(tmp_path / "f"), "metadata": {"kind": "test"}}]
    assert (tmp_path / "f").read_bytes() == data
    assert guest.call("POST", "/files", gzip.compress(data)[:-9], headers, path=tmp_path / "g").status == 400
    assert guest.call("POST", "/files", b"plain", headers, path=tmp_path / "g").status == 400
    assert os.listdir(tmp_path) == ["f"]
    assert guest.call("POST", "/files", b"x", {"Content-Type": "text/plain"}, path=tmp_path / "g").status == 400


def test_multipart_takes_the_name_as_the_path(guest: Guest, tmp_path: Path) -> None:
    def part(name: str, data: str) -> str:
        return f'--b\r\nContent-Disposition: form-data; name="file"; filename="{tmp_path}/{name}"\r\n\r\n{data}\r\n'

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = guest.call("POST", "/files", (part("x/one", "1") + part("t%22wo", "") + "--b--\r\n").encode(), headers)
    assert [entry["path"] for entry in reply.json] == [f"{tmp_path}/x/one", f"{tmp_path}/t%22wo"]
    assert (tmp_path / "x/one").read_text() == "1"
    twice = guest.call("POST", "/files", (part("y", "1") + part("y", "2") + "--b--\r\n").encode(), headers)
    assert twice.status == 400
    assert "multiple files to the same path" in twice.json["message"]
    for body in (b"", b"--b--\r\n", b"--b\r\n\r\nx", b"nothing", b"--b\r\n" + b"h" * 20_000):
        assert guest.call("POST", "/files", body, headers).status == 400


def test_joining_files(guest: Guest, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    body = {"source_paths": [f"{tmp_path}/a", f"{tmp_path}/b"], "destination": f"{tmp_path}/ab"}
    assert guest.call("POST", "/files/compose", body).json["size"] == "2"
    assert (tmp_path / "ab").read_text() == "ab"


def test_signatures(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    path = str(tmp_path / "f")

    def unsigned(**query: Any) -> Any:
        connection = guest.connect()
        connection.request("GET", "/files?" + urlencode({"path": path} | query))
        response = connection.getresponse()
        answer = (response.status, response.read())
        connection.close()
        return answer

    assert guest.call("GET", "/files", path=path).status == 200
    assert guest.call("GET", "/files", None, {"X-Access-Token": ""}, path=path).status == 401
    assert json.loads(unsigned()[1]) == {"code": 401, "message": "missing signature query parameter"}
    assert json.loads(unsigned(signature="v1_x")[1])["message"] == "invalid signature"
    assert unsigned(signature=sign(path, "read", "", TOKEN)) == (200, b"x")
    assert unsigned(signature=sign(path, "write", "", TOKEN))[0] == 401
    for moment, status in ((int(time.time()) + 60, 200), (int(time.time()) - 60, 401)):
        signed = sign(path, "read", "root", TOKEN, str(moment))
        assert unsigned(username="root", signature=signed, signature_expiration=moment)[0] == status


def test_a_signature_does_not_say_as_whom(guest: Guest, tmp_path: Path) -> None:
    """Only what was signed does: an `Authorization` beside it is not looked at."""
    (tmp_path / "f").write_text("x")
    path = str(tmp_path / "f")
    statuses = []
    for headers in ({"X-Access-Token": TOKEN}, {}):
        connection = guest.connect()
        query = urlencode({"path": path, "signature": sign(path, "read", "", TOKEN)})
        connection.request("GET", f"/files?{query}", headers={"Authorization": "Basic bm9ib2R5LWhlcmU6"} | headers)
        statuses.append(connection.getresponse().status)  # there is no user of that name
        connection.close()
    assert statuses == [401, 200]


def test_go_modes_and_times() -> None:
    assert permissions(0o100644) == "-rw-r--r--"
    assert permissions(0o040755) == "drwxr-xr-x"
    assert permissions(0o120777) == "Lrwxrwxrwx"
    assert permissions(0o104755) == "urwxr-xr-x"
    assert permissions(0o041777) == "dtrwxrwxrwx"
    assert timestamp(1_500_000_000_120_000_000) == "2017-07-14T02:40:00.12Z"
    assert timestamp(0) == "1970-01-01T00:00:00Z"


@given(
    parts=st.lists(st.tuples(st.sampled_from(["file", "other"]), st.binary(max_size=200)), max_size=5),
    sizes=st.lists(st.integers(1, 50), min_size=1),
)
def test_multipart_comes_out_whole_however_it_is_cut(parts: list[tuple[str, bytes]], sizes: list[int]) -> None:
    boundary = b"--edge-that-is-not-in-the-data"
    wire = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="/a b"\r\nX: y\r\n\r\n%s\r\n'
        % (boundary, name.encode(), data)
        for name, data in parts
    )
    pieces = [wire + b"--" + boundary + b"--\r\n"]
    cut: list[bytes] = []
    while pieces[0]:
        size = sizes[len(cut) % len(sizes)]
        cut.append(pieces[0][:size])
        pieces[0] = pieces[0][size:]

    async def read() -> bytes:
        return cut.pop(0) if cut else b""

    async def parse() -> list[tuple[str, bytes]]:
        reader, found = Multipart(read, boundary), []
        while (part := await reader.next_part()) is not None:
            assert part["filename"] == "/a b"
            found.append((part["name"], b"".join([piece async for piece in reader.content()])))
        return found

    assert asyncio.run(parse()) == parts


def test_boundaries() -> None:
    assert boundary_of('multipart/form-data; charset=x; boundary="a b"') == b"a b"
    assert boundary_of("multipart/form-data; boundary=ab;x") == b"ab"
    with pytest.raises(InvalidRequest):
        boundary_of("multipart/form-data")
