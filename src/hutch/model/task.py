"""The task: one agent run in a sandbox."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, SecretStr

from hutch.model.budget import Budget, Usage
from hutch.model.common import FALLBACK, LimitBreach, Model, ResourcesOverride
from hutch.model.identity import Identity
from hutch.model.llm import PROVIDER_NAME
from hutch.model.network import NetworkPolicy
from hutch.model.port import MAX_PUBLIC_PORTS, PortNumber
from hutch.model.secret import MAX_SECRETS, SecretName
from hutch.model.volume import VolumeMount


class TaskState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BUDGET_EXCEEDED = "budget_exceeded"
    TIMED_OUT = "timed_out"

    @property
    def ended(self) -> bool:
        return self not in (TaskState.QUEUED, TaskState.RUNNING, TaskState.WAITING)


class UploadInput(Model):
    """Files sent before with `POST /v1/uploads` (a tar stream), unpacked at `path`."""

    type: Literal["upload"]
    upload: str = Field(description="The upload's id.")
    path: str = Field(".", description="Where it goes; relative to the task's working directory.")


class UrlInput(Model):
    """A file fetched by the server, never by the sandbox."""

    type: Literal["url"]
    url: str = Field(max_length=8192, pattern=r"^https?://")
    path: str = Field(min_length=1, max_length=4096, description="The file's path; relative to the working directory.")


class GitInput(Model):
    """A git repository at a commit, fetched by the server; the working copy stands at `path`."""

    type: Literal["git"]
    url: str = Field(max_length=8192, pattern=r"^https?://")
    commit: str = Field(
        "HEAD", max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", description="Commit, branch or tag."
    )
    path: str = Field(".", max_length=4096)


Checkpoints = Literal["turns", "off"] | Annotated[float, Field(ge=5, le=86400, allow_inf_nan=False)]
"""When a task takes checkpoints of its sandbox: at each turn of its agent, never, or every so many seconds."""

Input = Annotated[UploadInput | UrlInput | GitInput, Field(discriminator="type")]


class OutputFile(Model):
    """One file of a task's outputs."""

    path: str
    size: int


class TaskResult(Model):
    """How a task ended."""

    state: TaskState
    text: str | None = Field(None, description="The agent's last message, shortened to 64 KiB.")
    exit_code: int | None = None
    error: str | None = Field(
        None,
        description="A stable code, for example `llm_auth_failed`, `agent_crashed`, `sandbox_died`, `memory_lost`.",
    )
    detail: str | None = Field(None, description="The same for a person.")


class Task(Model):
    """One agent run."""

    id: str
    sandbox_id: str
    agent: str
    state: TaskState
    prompt: str = Field(description="The task's text, shortened to 1 KiB.")
    budget: Budget
    checkpoints: Checkpoints = "off"
    turn: int = Field(0, description="Answers that the model has completed, on the line that the task is on now.")
    usage: Usage = Usage()
    breaches: list[LimitBreach] = []
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    result: TaskResult | None = None
    outputs: list[OutputFile] = []
    outputs_truncated: bool = False
    last_offset: int = Field(0, description="Offset of the newest event.")
    events_url: str = Field("", description="SSE (`Accept: text/event-stream`) or a JSON page.")
    stream_url: str = Field("", description="WebSocket.")


class CreateSandbox(Model):
    """`POST /v1/sandboxes`. Without `agent` and `task` it makes a plain sandbox."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    template: str = Field("standard", max_length=128)
    from_snapshot: str | None = Field(
        None,
        validation_alias="from",
        serialization_alias="from",
        max_length=64,
        description="Instead of a `template`: a snapshot, of which this is a new sandbox (a fork).",
    )
    fallback: Literal["disk"] | None = Field(None, description=FALLBACK)
    agent: str | None = Field(None, max_length=64)
    task: str | None = Field(None, description="The prompt; for agent `command`, the shell command. At most 8 MiB.")
    llm_key: SecretStr | None = Field(None, description="Key of the agent's model provider. Never enters the sandbox.")
    llm_provider: str | None = Field(
        None,
        pattern=PROVIDER_NAME,
        description="Which model provider `llm_key` is for, where the agent may use several: `anthropic`, `openai`, "
        "`google`, or one that the operator has named. Default: the agent's own, or told by the key.",
    )
    provider_tools: Literal["allow", "deny"] | None = Field(
        None,
        description="Whether the provider may itself reach the network for the task: search, fetch, call MCP servers, "
        "read URLs. Default: where the `network` reaches all that is public when it is made.",
    )
    model: str | None = Field(None, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/\[\]@-]*$")
    inputs: list[Input] = Field([], max_length=64)
    outputs: list[Annotated[str, Field(min_length=1, max_length=1024)]] = Field([], max_length=64, description="Globs.")
    budget: Budget = Budget()
    checkpoints: Checkpoints = Field(
        "off",
        description="With an `agent`: `turns` takes a snapshot at each of its turns, to go back to; a number, every so "
        "many seconds.",
    )
    keep: bool = Field(False, description="Keep the sandbox when the task ends.")
    lifetime: float | None = Field(None, gt=0, description="Seconds until it is destroyed, whatever happens.")
    idle_timeout: float | None = Field(
        None, gt=0, le=365 * 86400, description="Seconds without activity after which it is paused; unset: never."
    )
    resources: ResourcesOverride = ResourcesOverride()
    network: NetworkPolicy | None = None
    volumes: list[VolumeMount] = Field(
        [], max_length=16, description="Mounted in it. A fork has those of its snapshot's sandbox unless it names some."
    )
    public_ports: list[PortNumber] = Field(
        [],
        max_length=MAX_PUBLIC_PORTS,
        description="Ports that are reached from outside without a token. A fork has none of its parent's.",
    )
    env: dict[str, str] = Field({}, max_length=256)
    identity: Identity = Field(Identity(), description="What its identity token says beside what Hutch knows of it.")
    secrets: list[SecretName] = Field(
        [],
        max_length=MAX_SECRETS,
        description="Secrets that it may use: each is a variable with a placeholder, which is swapped on the way to "
        "the secret's hosts. The `network` has to let those be reached.",
    )
    labels: dict[str, str] = Field({}, max_length=64)
