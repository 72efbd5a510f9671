"""What a sandbox has spent on its model stays spent, whatever becomes of the sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.node.machine import Daemon, Host, daemon
from tests.unit.node.test_state_killed import SANDBOX, hibernate, pause, resume, rollback, running

from hutch.egress.llm.entry import Entry
from hutch.egress.llm.prices import Tokens
from hutch.model import LlmUsage


def spend(node: Daemon, tokens: int) -> None:
    """A call that is cut before its answer has counted what it sent, and no request."""
    node.parts.gateway._account(SANDBOX).count(Entry(), Tokens(input=tokens), None)


def spent(node: Daemon) -> LlmUsage:
    return node.sandboxes.view(node.parts.registry.get(SANDBOX)).llm


@pytest.mark.parametrize("operation", [pause, hibernate, rollback])
async def test_a_call_that_is_cut_before_its_answer_counts(
    memory: Path, operation: Callable[[Daemon], Awaitable[object]]
) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        spend(node, 100)
        await operation(node)
        assert spent(node).input_tokens == 100
    async with daemon(host) as node:
        await resume(node)
        assert spent(node).input_tokens == 100
        spend(node, 10)
        assert spent(node).input_tokens == 110


async def test_a_paused_one_that_is_deleted_tells_what_it_has_spent(memory: Path) -> None:
    async with daemon(Host(memory)) as node:
        await running(node)
        node.parts.gateway._account(SANDBOX).count_request(Entry())
        spend(node, 100)
        await pause(node)
        last = await node.sandboxes.destroy(SANDBOX)
        assert (last.llm.requests, last.llm.input_tokens) == (1, 100)
