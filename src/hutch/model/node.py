"""What the server and a node say to each other."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, SecretStr, field_serializer

from hutch.model.budget import LlmUsage
from hutch.model.common import LimitBreach, Model, NetworkPolicy, Resources


class LlmGrant(Model):
    """Permission of one sandbox to call one provider with a key it never sees."""

    provider: Literal["anthropic", "openai"]
    key: SecretStr
    placeholder: str = Field(description="What the guest sends instead of the key.")
    max_usd: float | None = None
    max_tokens: int | None = None

    @field_serializer("key", when_used="json")
    def _key(self, key: SecretStr) -> str:
        return key.get_secret_value()  # goes over the node's Unix socket, and to a tmpfs; never to a log


class BootRequest(Model):
    """`PUT /sandboxes/{id}` of the node: idempotent by id."""

    template: str
    resources: Resources
    network: NetworkPolicy
    deadline: float = Field(description="Unix time at which the node destroys it by itself.")
    env: dict[str, str] = {}
    llm: LlmGrant | None = None


class NodeSandbox(Model):
    """A sandbox as the node knows it: the facts."""

    id: str
    state: Literal["booting", "running", "dead"]
    template: str
    address: str = Field(description="The guest's IPv4 address in its slot.")
    guest_token: str = Field(description="The `X-Access-Token` of its guest.")
    user: str
    workdir: str
    started_at: datetime
    deadline: float
    boot_ms: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    disk_bytes: int = 0
    llm: LlmUsage = LlmUsage()
    breaches: list[LimitBreach] = []
    death: str | None = Field(None, description="Why it is dead.")


class JournalEntry(Model):
    """One fact of the node's journal. Numbers rise, have no meaning else, and are never used twice.

    kinds: sandbox_running {boot_ms}; sandbox_dead {reason, cpu_seconds, memory_peak_bytes}; limit {LimitBreach};
    llm_usage {usage: LlmUsage, the sandbox's total so far, model}; llm_auth_failed {provider, status, message};
    llm_budget_exceeded {part: llm_usd|llm_tokens, used, limit}.
    """

    seq: int
    time: datetime
    sandbox: str
    kind: Literal["sandbox_running", "sandbox_dead", "limit", "llm_usage", "llm_auth_failed", "llm_budget_exceeded"]
    data: dict[str, Any]


class NodeInfo(Model):
    """The node's health and size."""

    node: str = Field(description="The node's lasting id.")
    instance: str = Field(description="Changes with every start of the daemon.")
    version: str
    runtime: str
    sandboxes: int
    slots_free: int
    cpus: int
    memory_bytes: int
    disk_free_bytes: int
