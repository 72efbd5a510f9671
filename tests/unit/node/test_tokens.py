"""The guest of a sandbox that goes on after a snapshot gets another token, if it can."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.unit.node.machine import Host, daemon
from tests.unit.node.test_state_killed import SANDBOX, request

from hutch.errors import GuestUnavailable
from hutch.model import SnapshotRequest, new_id


@pytest.mark.parametrize(
    ("status", "tries"), [(404, 1), (None, 2)], ids=["an earlier version", "did not answer just then"]
)
async def test_a_guest_without_the_call_is_asked_once_and_one_that_fails_again(
    memory: Path, status: int | None, tries: int
) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await node.sandboxes.boot(SANDBOX, request())
        entry = node.parts.registry.get(SANDBOX)
        before = entry.record.guest_token
        host.fail = "renew"
        host.wrong = GuestUnavailable("no", **({} if status is None else {"status": status}))
        with capture_logs() as logs:
            await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=new_id("snp")))
            for _ in range(3):
                await node.sandboxes._tidy()
        assert host.steps.count("renew") == tries
        assert [line["log_level"] for line in logs if line["log_level"] != "info"] == ["warning"]
        (written,), _ = await node.parts.records.load()
        assert written.next_token == entry.record.next_token == ""
        assert host.kernels[SANDBOX].token == written.guest_token
        assert (written.guest_token == before) == (status == 404)
