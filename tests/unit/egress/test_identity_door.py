"""The door for identity tokens refuses what a program that was tricked would send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from hutch.egress.identity import IdentityDoor
from hutch.egress.llm.refused import Refused
from hutch.model import IdentityAnswer

GOOD = {"Metadata-Flavor": "Hutch", "Host": "identity.hutch"}


class Asked:
    def __init__(self) -> None:
        self.questions: list[tuple[str, str]] = []
        self.refusal: Refused | None = None

    async def __call__(self, address: str, audience: str) -> IdentityAnswer:
        self.questions.append((address, audience))
        if self.refusal is not None:
            raise self.refusal
        return IdentityAnswer(id="1", token="a.b.c", expires_at=1_800_000_000)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
async def door(asked: Asked) -> AsyncIterator[str]:
    door = IdentityDoor(asked, host="127.0.0.1")
    port = await door.start()
    yield f"http://127.0.0.1:{port}"
    await door.stop()


async def call(door: str, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, door + path, headers=headers) as answer:
        body = await (answer.json() if answer.content_type == "application/json" else answer.text())
        return answer.status, body, answer.headers


async def test_a_token_comes_as_json_or_as_it_is(door: str, asked: Asked) -> None:
    status, body, headers = await call(door, "/token?audience=https://vault.example/a", **GOOD)
    assert (status, body) == (200, {"token": "a.b.c", "expires_at": "2027-01-15T08:00:00+00:00"})
    assert headers["Cache-Control"] == "no-store"
    status, body, _ = await call(door, "/token?audience=x&format=text", **GOOD | {"Host": "169.254.169.252"})
    assert (status, body) == (200, "a.b.c")
    assert asked.questions == [("127.0.0.1", "https://vault.example/a"), ("127.0.0.1", "x")]


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/token?audience=a", "GET", {"Host": "identity.hutch"}, 403),  # forged on the server's side
        ("/token?audience=a", "GET", GOOD | {"Metadata-Flavor": "Google"}, 403),
        ("/token?audience=a", "GET", GOOD | {"Host": "evil.test"}, 403),  # a browser that was rebound
        ("/token?audience=a", "GET", GOOD | {"X-Forwarded-For": "1.2.3.4"}, 403),  # through a proxy
        ("/token?audience=a", "GET", GOOD | {"Via": "1.1 proxy"}, 403),
        ("/token?audience=a", "POST", GOOD, 404),
        ("/token?audience=a", "OPTIONS", GOOD, 404),
        ("/latest/meta-data/", "GET", GOOD, 404),
        ("/token", "GET", GOOD, 400),
        ("/token?audience=", "GET", GOOD, 400),
        ("/token?audience=a%20b", "GET", GOOD, 400),
        ("/token?audience=a%0ab", "GET", GOOD, 400),
        (f"/token?audience={'a' * 256}", "GET", GOOD, 400),
    ],
)
async def test_what_is_no_question_is_not_asked(
    door: str, asked: Asked, path: str, method: str, headers: dict[str, str], status: int
) -> None:
    found, body, _ = await call(door, path, method, **headers)
    assert found == status and body["error"]
    assert not asked.questions


async def test_a_refusal_says_whether_to_ask_again(door: str, asked: Asked) -> None:
    asked.refusal = Refused(503, "not now")
    status, body, headers = await call(door, "/token?audience=a", **GOOD)
    assert (status, body, headers["Retry-After"]) == (503, {"error": "not now"}, "1")
    asked.refusal = Refused(403, "never")
    status, _, headers = await call(door, "/token?audience=a", **GOOD)
    assert status == 403 and "Retry-After" not in headers
