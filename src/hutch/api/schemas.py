"""Bodies and answers that are the API's own; the nouns are `hutch.model`'s."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hutch.model import (
    ApiKey,
    CodeContext,
    Event,
    ExecState,
    FileInfo,
    Model,
    Sandbox,
    Secret,
    Snapshot,
    Task,
    TemplateInfo,
    TimelineEntry,
)
from hutch.model.egress import EgressEntry
from hutch.model.named_policy import NamedPolicy


class Problem(BaseModel):
    """An error (RFC 9457). Further members depend on the code: `field`, `value`, `errors`, `limit`, ..."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str = Field(description="Stable; the SDK raises the class that belongs to it.")
    detail: str = Field(description="What happened, for a person.")
    hint: str | None = Field(None, description="The way out.")
    retryable: bool = Field(description="Whether the same request may succeed in a moment.")


class SandboxList(Model):
    sandboxes: list[Sandbox]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class ForkedSandboxes(Model):
    sandboxes: list[Sandbox]


class SecretList(Model):
    secrets: list[Secret]


class PolicyList(Model):
    policies: list[NamedPolicy]


class Rekeyed(Model):
    secrets: int = Field(description="How many there are.")


class SnapshotList(Model):
    snapshots: list[Snapshot]


class Timeline(Model):
    snapshots: list[TimelineEntry] = Field(description="Each after its parent; the oldest branch first.")


class EgressPage(Model):
    entries: list[EgressEntry] = Field(description="The oldest first.")
    next: int = Field(description="Give it as `after` for what comes later.")


class TaskList(Model):
    tasks: list[Task]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class EventPage(Model):
    events: list[Event]
    next: int = Field(description="Give it as `from` to read on.")


class ExecList(Model):
    execs: list[ExecState]


class CodeContextList(Model):
    contexts: list[CodeContext]


class FileList(Model):
    entries: list[FileInfo]


class TemplateList(Model):
    templates: list[TemplateInfo]


class KeyList(Model):
    keys: list[ApiKey]


class UploadInfo(Model):
    """Files sent ahead of a task; name it in `inputs`."""

    id: str
    size: int
    expires_at: datetime


class MakeDirectory(Model):
    path: str = Field(min_length=1, max_length=4096)
    user: str | None = Field(None, max_length=64)


class MoveFile(Model):
    source: str = Field(min_length=1, max_length=4096)
    destination: str = Field(min_length=1, max_length=4096)
    user: str | None = Field(None, max_length=64)


class SendSignal(Model):
    signal: int | str = Field("SIGTERM", description="`SIGTERM`, `TERM` or 15; to the whole process tree.")


class BuildTemplate(Model):
    force: bool = Field(False, description="Build even when an image of the same content is there.")


class Health(Model):
    status: Literal["ok"] = "ok"
    version: str
