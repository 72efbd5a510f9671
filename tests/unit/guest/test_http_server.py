"""The HTTP server against clients that behave oddly."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from hutch_guest.access import sign
from tests.unit.guest.client import TOKEN, Guest, eventually

AUTH = f"X-Access-Token: {TOKEN}\r\n".encode()


def read_some(connection: socket.socket, until: bytes) -> bytes:
    data = b""
    while until not in data and (piece := connection.recv(65536)):
        data += piece
    return data


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def test_keep_alive_and_pipelining(guest: Guest) -> None:
    with guest.socket() as connection:
        connection.sendall(
            b"GET /hutch/ready HTTP/1.1\r\n\r\n" * 20 + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        assert read_all(connection).count(b"HTTP/1.1 204 No Content") == 21


def test_a_request_in_single_bytes(guest: Guest) -> None:
    with guest.socket() as connection:
        for byte in b"\r\nGET /hutch/ready HTTP/1.1\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert read_all(connection).startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /hutch/ready HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /hutch/ready HTTP/1.1\r\n" + b"A: x\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * 100_000, 431),
        (b"POST /hutch/prepare HTTP/1.1\r\nContent-Length: nine\r\n\r\n", 400),
        (b"POST /hutch/prepare HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_malformed_requests_are_answered_and_the_connection_closed(guest: Guest, raw: bytes, status: int) -> None:
    with guest.socket() as connection:
        connection.sendall(raw)
        assert read_all(connection).startswith(b"HTTP/1.1 %d " % status)


def test_malformed_chunk_in_a_body_cuts_the_connection(guest: Guest) -> None:
    with guest.socket() as connection:
        connection.sendall(b"POST /hutch/processes HTTP/1.1\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert read_all(connection) == b""


def test_continue_is_told_to_those_who_wait_for_it(guest: Guest) -> None:
    with guest.socket() as connection:
        body = json.dumps({"argv": ["true"]}).encode()
        head = b"POST /hutch/processes HTTP/1.1\r\n" + AUTH + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body))
        assert read_some(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_some(connection, b"}").startswith(b"HTTP/1.1 201")


def test_only_the_token_opens(guest: Guest) -> None:
    for headers in ({}, {"X-Access-Token": ""}, {"X-Access-Token": "wrong"}, {"X-Access-Token": "ünï"}):
        connection = guest.connect()
        connection.request("GET", "/hutch/processes", headers={k: v.encode() for k, v in headers.items()})
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (401, "unauthorized")
        connection.close()


def test_unknown_calls(guest: Guest) -> None:
    assert guest.call("GET", "/nowhere").json == {"code": 404, "message": "no such call: GET /nowhere"}
    assert guest.call("GET", "/hutch/nowhere").json["code"] == "not_found"
    assert guest.call("PATCH", "/hutch/processes").status == 405
    assert guest.call("PUT", "/hutch/processes/a/b/c").status == 404


def test_bodies_that_are_no_json(guest: Guest) -> None:
    for body in (b"{", b"[]", b"\xff", b"[" * 100_000, b"null"):
        assert guest.call("POST", "/hutch/processes", body).status == 400
    assert guest.call("POST", "/hutch/processes", b" " * (40 << 20)).status == 413


def test_cors_for_browsers_on_the_envd_surface_only(guest: Guest) -> None:
    assert guest.call("OPTIONS", "/files").headers["Access-Control-Allow-Methods"] == "*"
    assert guest.call("GET", "/health").headers["Access-Control-Allow-Origin"] == "*"
    assert guest.call("GET", "/hutch/ready").headers["Access-Control-Allow-Origin"] is None


def test_clients_that_vanish_leave_nothing(guest: Guest, tmp_path: Path) -> None:
    guest.call("GET", "/hutch/ready")
    before = guest.open_files()
    process = guest.start("sleep", "60")
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    requests = [
        b"GET /hutch/processes/%s/output?follow=1 HTTP/1.1\r\n" % process["id"].encode() + AUTH + b"\r\n",
        b"GET /hutch/files?path=%s HTTP/1.1\r\n" % bytes(tmp_path / "big") + AUTH + b"\r\n",
        b"PUT /hutch/files?path=%s HTTP/1.1\r\n" % bytes(tmp_path / "cut")
        + AUTH
        + b"Content-Length: 1000000\r\n\r\n"
        + b"x" * 70_000,
        b"POST /files?path=%s HTTP/1.1\r\n" % bytes(tmp_path / "cut2")
        + AUTH
        + b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n"
        + b"x" * 65_536,
        b"POST /hutch/extract?path=%s HTTP/1.1\r\n" % bytes(tmp_path / "out")
        + AUTH
        + b"Content-Length: 1000000\r\n\r\n"
        + bytes(600),
        b"POST /hutch/processes HTTP/1.1\r\n" + AUTH + b"Content-Length: 50\r\n\r\n{",
        b"GET /hutch/",
    ]
    for raw in requests * 3:
        with guest.socket() as connection:
            connection.sendall(raw)
            time.sleep(0.02)
    eventually(lambda: guest.open_files() <= before + 4, 5)  # the sleeping process's pipes
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == ["big"]
    assert guest.call("DELETE", f"/hutch/processes/{process['id']}").status == 204


def test_prepare_once_then_only_with_the_token(tmp_path: Path) -> None:
    guest = Guest(tmp_path, token=None)
    try:
        assert guest.call("GET", "/hutch/ready").status == 204
        assert guest.call("GET", "/hutch/processes").status == 401
        body = {"sandbox_id": "sbx_1", "access_token": "first", "env": {"GIVEN": "1"}, "limits": {"pids": 100}}
        assert guest.call("POST", "/hutch/prepare", body | {"env": {"A=": "x"}}).status == 400
        assert guest.call("POST", "/hutch/prepare", body).status == 204
        assert guest.call("POST", "/hutch/prepare", body | {"access_token": "second"}).status == 401
        token = {"X-Access-Token": "first"}
        assert guest.call("POST", "/hutch/prepare", body | {"env": {"GIVEN": "2"}}, token).status == 204
        assert guest.call("GET", "/envs", None, token).json["GIVEN"] == "2"
        assert guest.call("POST", "/init", {"envVars": {"X": "y"}}, token).status == 204
        assert guest.call("GET", "/envs", None, token).json["X"] == "y"
    finally:
        assert guest.close() == ""


def test_figures(guest: Guest) -> None:
    stats = guest.call("GET", "/hutch/stats").json
    assert 0 < stats["memory"]["used"] < stats["memory"]["total"]
    assert 0 < stats["disk"]["used"] < stats["disk"]["total"]
    assert stats["pids"] > 0
    metrics = guest.call("GET", "/metrics").json
    assert metrics["cpu_count"] >= 1
    assert 0 <= metrics["cpu_used_pct"] <= 100


def test_a_token_is_renewed_and_the_old_one_is_good_for_a_moment(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    try:
        shown = {name: {"X-Access-Token": name} for name in (TOKEN, "second", "third", "wrong")}

        def renew(to: str, by: str, seconds: float) -> int:
            return guest.call("POST", "/hutch/token", {"access_token": to, "former_seconds": seconds}, shown[by]).status

        def opens(token: str) -> bool:
            statuses = {guest.call("GET", "/hutch/processes", None, shown[token]).status}
            url = f"/files?path=/etc/hostname&signature={quote_plus(sign('/etc/hostname', 'read', '', token))}"
            with closing(guest.connect()) as connection:
                connection.request("GET", url)
                statuses.add(connection.getresponse().status)
            assert statuses in ({200}, {401})
            return statuses == {200}

        assert renew("second", "wrong", 60) == 401
        assert renew("second", TOKEN, -1) == renew("second", TOKEN, 61) == 400
        for _ in range(2):
            assert renew("second", TOKEN, 60) == 204
            assert opens(TOKEN) and opens("second") and not opens("wrong")
        assert renew("third", "second", 0) == 204
        assert [opens(name) for name in (TOKEN, "second", "third")] == [False, False, True]
        assert renew("second", "third", 60) == 204
        assert guest.call("POST", "/hutch/thaw", {"access_token": TOKEN}, shown["third"]).status == 200
        assert [opens(name) for name in (TOKEN, "second", "third")] == [True, False, False]
    finally:
        assert guest.close() == ""


def test_a_thaw_is_the_token_holder_s_and_changes_what_it_says(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    try:
        body = {"access_token": "fresh", "sandbox_id": "sbx_new", "boot_id": "b", "env": {"GIVEN": "1"}}
        old, new = {"X-Access-Token": TOKEN}, {"X-Access-Token": "fresh"}
        assert guest.call("POST", "/hutch/thaw", body, {"X-Access-Token": "wrong"}).status == 401
        for wrong in ({"entropy": "%%%"}, {"entropy": 5}, {"env": {"A=": "x"}}, {"access_token": 7}, {"limits": []}):
            assert guest.call("POST", "/hutch/thaw", body | wrong, old).status == 400, wrong
        answer = guest.call("POST", "/hutch/thaw", body | {"entropy": "AAAA"}, old)
        assert answer.status == 200 and answer.json == {"boot_id": "b", "entropy": []}
        assert guest.call("POST", "/hutch/thaw", body, old).status == 401
        assert guest.call("POST", "/hutch/thaw", {"env": None, "access_token": "fresh"}, new).status == 200
        started = guest.call("POST", "/hutch/processes?follow=1", {"id": "p", "shell": "echo $GIVEN"}, new)
        assert b"1\n" in started.body
    finally:
        assert guest.close() == ""
