"""Answers made into models and errors."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hutch.errors import BY_CODE, HutchError, InternalError, InvalidRequest
from hutch.model import ExecState, Task
from hutch.sdk.requests import create_body, exec_request
from hutch.sdk.wire import SseReader, parse, parse_event, problem
from tests.unit.sdk.server import event, task


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_is_raised_as_its_class(code: str) -> None:
    cls = BY_CODE[code]
    sent = cls("it went wrong", hint="do this", field="x").to_problem()
    error = problem(cls.http_status, "application/problem+json; charset=utf-8", json.dumps(sent).encode())
    assert type(error) is cls
    assert (error.detail, error.hint, error.extra["field"]) == ("it went wrong", "do this", "x")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<h1>502 Bad Gateway</h1>"),
        ("application/problem+json", b"{broken"),
        ("application/json", b"[1, 2]"),
        ("application/json", b'{"detail": "no code"}'),
        ("", b"\xff\xfe"),
    ],
)
def test_answers_of_others_are_an_internal_error_that_says_so(content_type: str, body: bytes) -> None:
    error = problem(502, content_type, body)
    assert type(error) is InternalError
    assert "502" in error.detail


def test_unknown_code_of_a_newer_server_keeps_what_it_says() -> None:
    error = problem(418, "application/problem+json", b'{"code": "teapot", "detail": "short and stout"}')
    assert isinstance(error, HutchError) and error.detail == "short and stout"


def test_fields_of_a_newer_server_are_passed_over() -> None:
    assert parse(Task, task(colour="blue", budget={"llm_usd": 1, "mood": "good"})).budget.llm_usd == 1
    with pytest.raises(InternalError, match="no ExecState"):
        parse(ExecState, {"id": "x"})


def test_events_of_a_newer_server_are_passed_over() -> None:
    data = '{"offset": 3, "time": "2026-11-21T12:00:00Z", "type": "telepathy", "data": {}}'
    assert parse_event(data) is None
    with pytest.raises(InternalError):
        parse_event('{"offset": "x", "type": "telepathy"}')


def test_wrong_requests_are_refused_before_they_are_sent() -> None:
    with pytest.raises(InvalidRequest) as caught:
        create_body("standard", [], lifetime=-1)
    assert caught.value.extra["field"] == "lifetime"
    with pytest.raises(InvalidRequest):
        exec_request("ls", None, None, None, timeout=-3)


def test_create_body_carries_what_was_given_and_the_key() -> None:
    body = create_body(None, [], agent="codex", llm_key="sk-1", network="allow_all", task="x", outputs=[])
    assert body == {
        "template": "codex",
        "agent": "codex",
        "task": "x",
        "llm_key": "sk-1",
        "network": {"mode": "allow_all"},
    }
    assert create_body(None, [])["template"] == "standard"


def test_the_key_is_in_no_error() -> None:
    try:
        create_body("standard", [], llm_key=["sk-secret"])
    except InvalidRequest as error:
        assert "sk-secret" not in str(error) + json.dumps(error.to_problem())
    except ValidationError:
        pytest.fail("a validation error would show its input")


@given(st.lists(st.integers(0, 400), max_size=12))
def test_events_are_read_whole_however_they_are_cut(cuts: list[int]) -> None:
    data = (b": hello\nretry: 1000\n\n" + event(1, text="a\u2028b") + b": keepalive\n\n" + event(2, text="c")).decode()
    marks = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    from hutch.sdk._sync.following import lines_of

    chunks = iter([data[a:b] for a, b in itertools.pairwise(marks)])
    reader = SseReader()
    events = [parse_event(each) for line in lines_of(chunks) for each in reader.feed(line)]
    assert [each.data["text"] for each in events if each] == ["a\u2028b", "c"]
