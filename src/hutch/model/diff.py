"""What differs between two points of a sandbox."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from hutch.model.common import Model
from hutch.model.node import SNAPSHOT_ID

FileType = Literal["file", "directory", "symlink", "fifo", "char", "block"]
MOST_CHANGES = 10_000


class FileState(Model):
    """What a path was at one of the two points."""

    type: FileType
    size: int | None = Field(None, description="Of a file, in bytes.")
    mode: str = Field(description="Permissions, octal: `0644`.")
    uid: int
    gid: int
    target: str | None = Field(None, description="Of a symbolic link.")


class FileChange(Model):
    """One path. Names that are no UTF-8 have `\\xff` for each byte of those that are none."""

    path: str = Field(description="Absolute.")
    change: Literal["added", "changed", "removed"]
    before: FileState | None = None
    after: FileState | None = None
    text: str | None = Field(None, description="Unified diff, where it was asked for and both sides are text.")
    no_text: Literal["binary", "too_large", "limit"] | None = Field(
        None, description="Why there is none: no text, over 256 KiB, or behind the 4 MiB that an answer has at most."
    )


class Diff(Model):
    """`GET /v1/sandboxes/{id}/diff`. The counts are of all changes, also when not all are listed."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    from_snapshot: str | None = Field(
        None, validation_alias="from", serialization_alias="from", description="Unset: the template's image."
    )
    to_snapshot: str | None = Field(
        None, validation_alias="to", serialization_alias="to", description="Unset: the sandbox as it is now."
    )
    added: int
    changed: int
    removed: int
    changes: list[FileChange] = Field(description="Sorted by path.")
    truncated: bool = Field(False, description="Whether there are more than are listed.")


class DiffRequest(Model):
    """`POST /sandboxes/{id}/diff` of the node."""

    from_snapshot: str | None = Field(None, pattern=SNAPSHOT_ID)
    to_snapshot: str | None = Field(None, pattern=SNAPSHOT_ID)
    path: str = Field("", max_length=4096, description="Only this, and what is below it.")
    text: bool = False
    limit: int = Field(1000, ge=1, le=MOST_CHANGES)
