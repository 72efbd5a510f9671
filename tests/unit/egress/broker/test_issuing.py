"""The node gives the broker identity tokens that rules refer to, and no others: the broker reads what guests send."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hutch.egress.brokering import Broker
from hutch.egress.llm.refused import Refused
from hutch.model import IdentityAnswer
from hutch.model.grant import SecretGrant

RULE = {"host": "good.test", "headers": {"X": "${e2b.identity.tokens.aws}"}, "tokens": {"aws": "sts"}}


@pytest.mark.parametrize(
    ("sandbox", "audience", "told"),
    [
        ("sbx_a", "sts", {"token": "of sbx_a for sts", "until": 7.0}),
        ("sbx_a", "vault", {"token": None, "status": 403, "error": "no rule of this sandbox refers to it"}),
        ("sbx_b", "sts", {"token": None, "status": 403, "error": "no rule of this sandbox refers to it"}),
        ("sbx_gone", "sts", {"token": None, "status": 403, "error": "no rule of this sandbox refers to it"}),
        ("sbx_busy", "sts", {"token": None, "status": 429, "error": "too often"}),
    ],
)
async def test_tokens_of_rules_only(
    monkeypatch: pytest.MonkeyPatch, sandbox: str, audience: str, told: dict[str, Any]
) -> None:
    async def issue(sandbox: str, audience: str) -> IdentityAnswer:
        if sandbox == "sbx_busy":
            raise Refused(429, "too often")
        return IdentityAnswer(id="1", token=f"of {sandbox} for {audience}", expires_at=7.0)

    broker = Broker("n", 61184, lambda _: None, issue)
    empty = {"authority": "a", "key": "k", "hosts": [], "secrets": []}
    for each, headers in (("sbx_a", [RULE]), ("sbx_b", []), ("sbx_busy", [RULE])):
        await broker.grant(each, SecretGrant.model_validate(empty | {"headers": headers}))
    said: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(broker, "send", said.set_result)
    broker.hear({"op": "token", "n": 3, "sandbox": sandbox, "audience": audience})
    assert await asyncio.wait_for(said, 10) == {"op": "token", "n": 3} | told
