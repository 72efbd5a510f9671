"""What the node itself has to remember with a snapshot, in a file of its own beside the runtime's."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from hutch.errors import SnapshotCorrupt
from hutch.model import Model

NOTE = "node.json"


class ThawNote(Model):
    """Root's only, as the memory image is, which holds the token as well."""

    guest_token: str
    """What the frozen guest will ask for; replaced as soon as it has been thawed."""
    next_token: str = ""
    """What it may ask for instead: it was being told at the freeze."""
    boot_id: str
    user: str
    workdir: str


def write_note(directory: Path, note: ThawNote) -> None:
    """Add it to a frozen directory that was not admitted yet; in place of one that a killed daemon wrote."""
    (directory / NOTE).write_text(note.model_dump_json())


def read_note(directory: Path) -> ThawNote:
    """Raises `SnapshotCorrupt`."""
    try:
        return ThawNote.model_validate_json((directory / NOTE).read_bytes())
    except (OSError, ValidationError) as error:
        raise SnapshotCorrupt(f"snapshot {directory.name}: {NOTE} cannot be read") from error
