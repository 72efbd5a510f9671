"""Which sandbox a request is for, and whether it may come in."""

from __future__ import annotations

import base64
import hashlib
import time
from urllib.parse import quote

import pytest

from hutch.control.ports import Door
from hutch.gateway.access import check_access, lacks_token, signed_by
from hutch.gateway.exchange import Exchange
from hutch.gateway.refusals import Refusal
from hutch.gateway.routing import Api, Names, Place, find_place
from hutch.http1.framing import framing_of
from hutch.http1.heads import Request, parse_request
from hutch.model import CODE_PORT
from hutch.model.e2b import e2b_key, e2b_sandbox_id, hutch_key, hutch_sandbox_id
from hutch_guest.http.urls import split_target

ID = "sbx_" + "ab234567" * 2 + "abcdef"
E2B = e2b_sandbox_id(ID)
TOKEN, TRAFFIC = "t" * 64, "p" * 64


def request(method: str, target: str, *fields: str) -> Request:
    return parse_request("\r\n".join([f"{method} {target} HTTP/1.1", *fields]).encode())


def door(secure: bool = True, public: bool = False) -> Door:
    return Door(ID, "org", secure, public, True, True, None, TOKEN, TRAFFIC)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ([f"Host: 8080-{E2B}.box.example:9"], Place(ID, 8080)),
        ([f"Host: 8080-{E2B.upper()}-more.x"], Place(ID, 8080)),
        (["Host: 127.0.0.1:1", f"E2b-Sandbox-Id: {E2B}", "E2b-Sandbox-Port: 49983"], Place(ID, 49983)),
        (["Host: localhost", f"E2B-SANDBOX-ID: {ID}", "e2b-sandbox-port: 1"], Place(ID, 1)),
        (["Host: 127.0.0.1"], None),
    ],
)
def test_places(fields: list[str], place: Place | None) -> None:
    assert find_place(request("GET", "/", *fields)) == place


@pytest.mark.parametrize(
    "fields",
    [
        [f"E2b-Sandbox-Id: {E2B}"],
        ["E2b-Sandbox-Port: 80"],
        [f"E2b-Sandbox-Id: {E2B}", "E2b-Sandbox-Port: 0"],
        [f"E2b-Sandbox-Id: {E2B}", "E2b-Sandbox-Port: 65536"],
        [f"E2b-Sandbox-Id: {E2B}", "E2b-Sandbox-Port: ٣"],
        ["E2b-Sandbox-Id: ../x", "E2b-Sandbox-Port: 80"],
        ["Host: 8080-toolong0189.example"],
    ],
)
def test_places_that_cannot_be(fields: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        find_place(request("GET", "/", *fields))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/metrics", 401),
        ("/files?path=x", 401),
        ("/process.Process/List", 401),
        ("/init", 404),
        ("/hutch/processes", 404),
        ("/%68utch/processes", 404),
        ("//hutch/processes", 404),
        ("/files/../hutch/processes", 404),
        ("/process.Process/../hutch/prepare", 401),
    ],
)
def test_the_guest_is_closed(target: str, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        check_access(request("POST", target), door(), 49983)
    assert caught.value.status == status


def test_tokens_open() -> None:
    check_access(request("GET", "/health"), door(), 49983)
    check_access(request("GET", "/metrics", f"X-Access-Token: {TOKEN}"), door(), 49983)
    check_access(request("GET", "/metrics"), door(secure=False), 49983)
    check_access(request("GET", "/"), door(public=True), 80)
    check_access(request("GET", "/", f"e2b-traffic-access-token: {TRAFFIC}"), door(), 80)
    for fields in ((), (f"e2b-traffic-access-token: {TOKEN}",), (f"X-Access-Token: {TRAFFIC}",)):
        with pytest.raises(Refusal) as caught:
            check_access(request("GET", "/", *fields), door(), 80)
        assert caught.value.status == 403


def test_who_needs_a_port_to_be_public_by_itself() -> None:
    token = f"e2b-traffic-access-token: {TRAFFIC}"
    assert lacks_token(request("GET", "/"), door(), 80)
    assert lacks_token(request("GET", "/", f"X-Access-Token: {TRAFFIC}"), door(), 80)
    assert not lacks_token(request("GET", "/", token), door(), 80)
    assert not lacks_token(request("GET", "/"), door(public=True), 80)
    assert not any(lacks_token(request("GET", "/"), door(), own) for own in (49983, CODE_PORT))


def signed(operation: str, path: str, token: str, expiration: int | None = None) -> str:
    text = f"{path}:{operation}::{token}" + (f":{expiration}" if expiration is not None else "")
    signature = "v1_" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    more = f"&signature_expiration={expiration}" if expiration is not None else ""
    return f"/files?path={path}&signature={signature.replace('+', '%2B')}{more}"


def test_signatures() -> None:
    later, past = int(time.time()) + 60, int(time.time()) - 60
    for good in (signed("read", "a", TOKEN), signed("read", "a", TOKEN, later)):
        check_access(request("GET", good), door(), 49983)
        assert signed_by(request("GET", good), [("other", TRAFFIC), ("it", TOKEN)]) == "it"
        assert signed_by(request("GET", good), [("other", TRAFFIC)]) is None
    for method, bad in (
        ("POST", signed("read", "a", TOKEN)),
        ("GET", signed("write", "a", TOKEN)),
        ("GET", signed("read", "a", TRAFFIC)),
        ("GET", signed("read", "a", TOKEN, past)),
        ("GET", signed("read", "a", TOKEN, later).replace("path=a", "path=b")),
    ):
        with pytest.raises(Refusal) as caught:
            check_access(request(method, bad), door(), 49983)
        assert caught.value.status == 401


@pytest.mark.parametrize("path", ["/home/user/a b+c", "/é", "/a#b&path=c", "/%ff;x"])
def test_the_guest_reads_what_was_signed_and_nothing_else(path: str) -> None:
    quoted = quote(path)
    signature = signed("read", path, TOKEN).partition("&signature=")[2]
    for target in (
        f"/files?path={quoted}&signature={signature}",
        f"/files?path=/etc/shadow&username=root&path={quoted}&username=&signature={signature}",
        f"/files?path={path}&signature={signature}"
        if path == "/é"
        else f"/files?path=x&username=root&%70ath={quoted}&username=&signature={signature}&=&metadata=1",
    ):
        passed = check_access(request("GET", target, "Authorization: Basic cm9vdDo="), door(), 49983).request
        told, query = split_target(passed.target.decode("latin-1"))
        assert told == "/files" and query.pop("username", "") == "" and query == {"path": path}
        assert passed.get(b"authorization") is None


def test_only_who_shows_a_token_is_known() -> None:
    token = f"X-Access-Token: {TOKEN}"
    assert not check_access(request("GET", "/health"), door(), 49983).known
    assert not check_access(request("GET", "/health", "X-Access-Token: other"), door(), 49983).known
    assert not check_access(request("OPTIONS", "/files"), door(), 49983).known
    assert check_access(request("GET", "/health", token), door(), 49983).known
    assert check_access(request("GET", "/health"), door(secure=False), 49983).known
    assert check_access(request("GET", "/"), door(public=True), 80).known
    assert check_access(request("GET", signed("read", "a", TOKEN)), door(), 49983).known


def test_ids_and_keys_go_both_ways() -> None:
    assert hutch_sandbox_id(E2B) == ID == hutch_sandbox_id(ID) == hutch_sandbox_id(f"{E2B}-hutch")
    assert [hutch_sandbox_id(bad) for bad in ("", "i", "i1", "sbx_1", E2B + "a", E2B.upper())] == [None] * 6
    for key in ("hk_" + "a" * 22 + "_" + "7" * 52, "hk_" + "7" * 22 + "_" + "a" * 52):
        assert hutch_key(e2b_key(key) or "") == key
    assert e2b_key("hk_short") is None and hutch_key("e2b_00") == "e2b_00" and hutch_key("hk_x") == "hk_x"
    assert hutch_key("e2b_" + "f" * 93) == "e2b_" + "f" * 93


def test_with_tls_the_host_name_alone_counts() -> None:
    names = Names("Box.test:8443")
    headers = (f"E2b-Sandbox-Id: {E2B}", "E2b-Sandbox-Port: 9000")
    assert names.url == "https://api.Box.test:8443"
    for host, found in (
        (f"8000-{E2B}.box.test", Place(ID, 8000)),
        (f"8000-{E2B}.BOX.test.:8443", Place(ID, 8000)),
        ("api.box.test:1", Api()),
        ("sandbox.box.test", Place(ID, 9000)),
    ):
        assert names.find(request("GET", "/", f"Host: {host}", *headers)) == found
    assert names.find(request("GET", "/files", "Host: sandbox.box.test")) is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("box.test", 404),
        ("www.box.test", 404),
        (f"8000-{E2B}.api.box.test", 404),
        (f"8000-{E2B}.box.example", 421),
        ("api.box.test.example", 421),
        ("xbox.test", 421),
        ("127.0.0.1", 421),
        ("", 421),
        (f"99999-{E2B}.box.test", 400),
    ],
)
def test_names_that_lead_nowhere(host: str, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        Names("box.test").find(request("GET", "/", f"Host: {host}", f"E2b-Sandbox-Id: {E2B}", "E2b-Sandbox-Port: 80"))
    assert caught.value.status == status


def test_a_name_told_twice_is_none() -> None:
    with pytest.raises(Refusal):
        Names("box.test").find(request("GET", "/", "Host: api.box.test", f"Host: 80-{E2B}.box.test"))


def test_what_the_api_is_told_of_the_client_is_ours_to_say() -> None:
    sent = request("POST", "/v1/x", "Host: api.box.test", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: http", "A: b")
    passed = Exchange(sent, framing_of(None), place=Api(), client="10.0.0.7").head("")
    assert b"9.9.9.9" not in passed and b"A: b" in passed and b"X-Forwarded-For: 10.0.0.7\r\n" in passed
    assert passed.count(b"X-Forwarded-Proto: https\r\n") == 1


@pytest.mark.parametrize(
    ("method", "target", "without"),
    [
        ("POST", "/execute", 401),
        ("POST", "//execute", 401),
        ("POST", "/%65xecute", 401),
        ("POST", "/contexts/../execute", 401),
        ("POST", "/execute?x=/contexts", 401),
        ("OPTIONS", "/execute", None),
        ("GET", "/health", None),
        ("POST", "/contexts", None),
        ("POST", "/contexts/0a-b/restart", None),
        ("DELETE", "/contexts/0a-b", None),
    ],
)
def test_running_code_by_a_public_port_takes_the_token(method: str, target: str, without: int | None) -> None:
    with_token = request(method, target, f"X-Access-Token: {TOKEN}")
    check_access(with_token, door(public=True), CODE_PORT)
    check_access(request(method, target), door(secure=False, public=True), CODE_PORT)
    check_access(request(method, target, f"E2B-Traffic-Access-Token: {TRAFFIC}"), door(), CODE_PORT)
    if without is None:
        check_access(request(method, target), door(public=True), CODE_PORT)
        return
    with pytest.raises(Refusal) as caught:
        check_access(request(method, target), door(public=True), CODE_PORT)
    assert caught.value.status == without


def test_a_program_in_the_sandbox_does_not_see_the_token() -> None:
    shown = request("POST", "/execute", f"X-Access-Token: {TOKEN}")
    seen = Exchange(shown, framing_of(None), door(public=True), Place(ID, CODE_PORT)).head("guest-token")
    assert TOKEN.encode() not in seen and b"guest-token" not in seen
