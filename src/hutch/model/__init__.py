"""The nouns as small typed models. No I/O."""

from hutch.model.budget import Budget, LlmUsage, Usage
from hutch.model.common import (
    AllowAll,
    DenyAll,
    LimitBreach,
    Model,
    NetworkPolicy,
    Resources,
    ResourcesOverride,
)
from hutch.model.event import Event, EventType
from hutch.model.execution import ExecFrame, ExecRequest, ExecResult, ExecState, FileInfo, PtySize
from hutch.model.ids import is_id, new_id
from hutch.model.key import ApiKey, CreateKey, NewApiKey
from hutch.model.node import (
    BootRequest,
    JournalEntry,
    JournalKind,
    LlmGrant,
    NodeInfo,
    NodeSandbox,
    PauseRequest,
    RollbackRequest,
    SnapshotRequest,
)
from hutch.model.sandbox import Sandbox, SandboxState
from hutch.model.snapshot import RuntimeManifest, SnapshotKind, SnapshotReason, SnapshotRecord, SnapshotUsage
from hutch.model.task import (
    CreateSandbox,
    GitInput,
    Input,
    OutputFile,
    Task,
    TaskResult,
    TaskState,
    UploadInput,
    UrlInput,
)
from hutch.model.template import Recipe, TemplateInfo

__all__ = [
    "AllowAll",
    "ApiKey",
    "BootRequest",
    "Budget",
    "CreateKey",
    "CreateSandbox",
    "DenyAll",
    "Event",
    "EventType",
    "ExecFrame",
    "ExecRequest",
    "ExecResult",
    "ExecState",
    "FileInfo",
    "GitInput",
    "Input",
    "JournalEntry",
    "JournalKind",
    "LimitBreach",
    "LlmGrant",
    "LlmUsage",
    "Model",
    "NetworkPolicy",
    "NewApiKey",
    "NodeInfo",
    "NodeSandbox",
    "OutputFile",
    "PauseRequest",
    "PtySize",
    "Recipe",
    "Resources",
    "ResourcesOverride",
    "RollbackRequest",
    "RuntimeManifest",
    "Sandbox",
    "SandboxState",
    "SnapshotKind",
    "SnapshotReason",
    "SnapshotRecord",
    "SnapshotRequest",
    "SnapshotUsage",
    "Task",
    "TaskResult",
    "TaskState",
    "TemplateInfo",
    "UploadInput",
    "UrlInput",
    "Usage",
    "is_id",
    "new_id",
]
