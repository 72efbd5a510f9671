"""The normalised event stream of a task: ACP's vocabulary, and ours beside it (DESIGN §7)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from hutch.model.common import Model


class EventType(StrEnum):
    """What an event says. `data` per type:

    agent_message_chunk {text}; agent_thought_chunk {text}; tool_call {id, title, kind?, input};
    tool_call_update {id, status: completed|failed, output?}; plan {entries: [{content, status}]};
    usage {LlmUsage fields};
    output {stream: stdout|stderr, text, truncated_bytes?} what an agent printed that is not a known event;
    budget {part: run_time|llm_usd|llm_tokens|org_day_usd|org_day_tokens|org_month_usd|org_month_tokens,
    level: warning|exceeded, used, limit};
    limit {LimitBreach fields}; status {state, ...}; result {TaskResult fields};
    checkpoint {turn, snapshot, stopped_ms}, or {turn, error, detail} where none could be taken;
    rolled_back {turn, snapshot, safety};
    egress {message, kind, name?, address?, port?, reason}: a connection or name that was refused.
    """

    AGENT_MESSAGE_CHUNK = "agent_message_chunk"
    AGENT_THOUGHT_CHUNK = "agent_thought_chunk"
    TOOL_CALL = "tool_call"
    TOOL_CALL_UPDATE = "tool_call_update"
    PLAN = "plan"
    USAGE = "usage"
    OUTPUT = "output"
    BUDGET = "budget"
    LIMIT = "limit"
    STATUS = "status"
    CHECKPOINT = "checkpoint"
    ROLLED_BACK = "rolled_back"
    EGRESS = "egress"
    RESULT = "result"


class Event(Model):
    """One event. Offsets of a task start at 1 and have no gaps; `?from=N` replays from offset N (inclusive)."""

    offset: int = Field(ge=1)
    time: datetime
    type: EventType
    data: dict[str, Any]
