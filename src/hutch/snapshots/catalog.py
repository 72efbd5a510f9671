"""Snapshots in the index: records, lineage, and how far each is on its way into the store."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from hutch.errors import AlreadyExists, InternalError, SnapshotNotFound
from hutch.model import SnapshotRecord
from hutch.snapshots.checksums import Checksums
from hutch.snapshots.index import Index
from hutch.snapshots.recipe import Recipe, decode
from hutch.snapshots.zstd import Damaged

_COLUMNS = "record, parent, logical, stored"


@dataclass(frozen=True)
class Progress:
    """How far a snapshot is: `synced`, its plain files survive a power cut; `stored`, it is whole in chunks."""

    id: str
    synced: bool
    stored: bool


class Catalog:
    """A snapshot is here or not, and all that it refers to with it: each method is one transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def insert(self, record: SnapshotRecord, *, synced: bool = False) -> None:
        """Enter a snapshot of which only the plain files are there yet. Raises `AlreadyExists`, `DiskFull`."""
        values = (record.id, record.sandbox_id, record.org, record.parent, record.created_at.timestamp())
        values += (record.model_dump_json(), record.logical_bytes, synced)  # type: ignore[assignment]
        with self._index.write() as db:
            try:
                db.execute(
                    "INSERT INTO snapshots (id, sandbox, org, parent, created_at, record, logical, synced)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists(f"snapshot {record.id} is there already") from error

    def has(self, id: str) -> bool:
        """Whether the snapshot is here."""
        with self._index.read() as db:
            return db.execute("SELECT 1 FROM snapshots WHERE id = ?", (id,)).fetchone() is not None

    def get(self, id: str) -> SnapshotRecord:
        """Raises `SnapshotNotFound`."""
        with self._index.read() as db:
            row = db.execute(f"SELECT {_COLUMNS} FROM snapshots WHERE id = ?", (id,)).fetchone()  # noqa: S608
        if row is None:
            raise _missing(id)
        return _record(row)

    def records(self, sandbox: str | None = None, org: str | None = None) -> list[SnapshotRecord]:
        """Those of a sandbox, of an organisation, or all; oldest first."""
        query = f"""SELECT {_COLUMNS} FROM snapshots
            WHERE (?1 IS NULL OR sandbox = ?1) AND (?2 IS NULL OR org = ?2) ORDER BY created_at, id"""  # noqa: S608
        with self._index.read() as db:
            return [_record(row) for row in db.execute(query, (sandbox, org))]

    def progress(self) -> list[Progress]:
        """Of all snapshots, oldest first."""
        query = "SELECT id, synced, recipe IS NOT NULL FROM snapshots ORDER BY created_at, id"
        with self._index.read() as db:
            return [Progress(id, bool(synced), bool(stored)) for id, synced, stored in db.execute(query)]

    def mark_synced(self, ids: Iterable[str], synced: bool) -> None:
        """Whether the plain files survive a power cut."""
        with self._index.write() as db:
            db.executemany("UPDATE snapshots SET synced = ? WHERE id = ?", [(synced, id) for id in ids])

    def store(self, id: str, recipe: Recipe, stored: int, sums: Checksums) -> None:
        """From now on it is whole in chunks; it added `stored` bytes; `sums` are its files'. Raises `SnapshotNotFound`
        when it was deleted meanwhile, `DiskFull`."""
        data, digest = recipe.encode()
        with self._index.write() as db:
            changed = db.execute(
                "UPDATE snapshots SET recipe = ?, recipe_digest = ?, stored = ? WHERE id = ? AND recipe IS NULL",
                (data, digest, stored, id),
            )
            if changed.rowcount != 1:
                raise _missing(id)
            _count(db, recipe.segments(), 1)
            _put_checksums(db, id, sums)

    def unstore(self, id: str) -> None:
        """Its chunks are not to be used any more: it has only its plain files, as before it was stored. Raises
        `SnapshotNotFound`, `DiskFull`."""
        digest, segments = self._needs(id)
        with self._index.write() as db:
            query = """UPDATE snapshots SET recipe = NULL, recipe_digest = NULL, stored = NULL
                WHERE id = ? AND recipe_digest IS ?"""
            if db.execute(query, (id, digest)).rowcount != 1:
                raise _missing(id)
            _release(db, segments)

    def needing(self, segment: int) -> list[str]:
        """Snapshots that refer to a segment. All recipes are read: this is for when it is damaged."""
        return [one.id for one in self.progress() if one.stored and segment in (self._needs_of(one.id) or ())]

    def _needs_of(self, id: str) -> set[int] | None:
        try:
            return self._needs(id)[1]
        except SnapshotNotFound:  # deleted meanwhile
            return None

    def checksums(self, id: str) -> dict[str, bytes] | None:
        """Of its plain files; None when it is not in chunks, or was stored by a Hutch that made none."""
        query = """SELECT file, sums FROM checksums JOIN snapshots ON id = snapshot
            WHERE snapshot = ? AND recipe IS NOT NULL"""
        with self._index.read() as db:
            return dict(db.execute(query, (id,)).fetchall()) or None

    def put_checksums(self, id: str, sums: Checksums) -> None:
        """These are right. Raises `DiskFull`."""
        with self._index.write() as db:
            _put_checksums(db, id, sums)

    def recipe(self, id: str) -> Recipe | None:
        """None while it is not in chunks. Raises `SnapshotNotFound`, `Damaged`."""
        row = self._recipe_row(id)
        return None if row[0] is None else decode(*row)

    def delete(self, id: str) -> None:
        """Take it out; its children become its parent's. Raises `SnapshotNotFound`, `DiskFull`."""
        while not self._delete(id, *self._needs(id)):
            pass  # it was stored in between: look again

    def _needs(self, id: str) -> tuple[bytes | None, set[int] | None]:
        """Its recipe's hash, and its segments; None for the segments of a damaged recipe. Not done in the transaction
        that deletes, as a large recipe takes its time."""
        row = self._recipe_row(id)
        if row[0] is None:
            return None, set()
        try:
            return row[1], decode(*row).segments()
        except Damaged:
            return row[1], None

    def _delete(self, id: str, digest: bytes | None, segments: set[int] | None) -> bool:
        with self._index.write() as db:
            query = "DELETE FROM snapshots WHERE id = ? AND recipe_digest IS ? RETURNING parent"
            deleted = db.execute(query, (id, digest)).fetchone()
            if deleted is None:
                return False
            db.execute("UPDATE snapshots SET parent = ? WHERE parent = ?", (deleted[0], id))
            db.execute("DELETE FROM checksums WHERE snapshot = ?", (id,))
            db.execute("DELETE FROM damage WHERE snapshot = ?", (id,))
            _release(db, segments)
        return True

    def _recipe_row(self, id: str) -> tuple[bytes, bytes]:
        with self._index.read() as db:
            row = db.execute("SELECT recipe, recipe_digest FROM snapshots WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise _missing(id)
        return row[0], row[1]

    def logical_bytes(self, org: str | None) -> tuple[int, int, int]:
        """How many snapshots an organisation has, the sum of their files' sizes, and of that, of those that are not in
        chunks."""
        query = """SELECT COUNT(*), COALESCE(SUM(logical), 0), COALESCE(SUM(IIF(recipe IS NULL, logical, 0)), 0)
            FROM snapshots WHERE org IS ?"""
        with self._index.read() as db:
            count, size, pending = db.execute(query, (org,)).fetchone()
        return int(count), int(size), int(pending)


def _count(db: sqlite3.Connection, segments: set[int], change: int) -> None:
    done = db.executemany("UPDATE segments SET refs = refs + ? WHERE id = ?", [(change, id) for id in segments])
    if done.rowcount != len(segments) and segments:
        raise InternalError("a snapshot refers to a segment that is not in the index")


def _release(db: sqlite3.Connection, segments: set[int] | None) -> None:
    """One reference less; None for those of a recipe that cannot be read."""
    if segments is None:
        _recount(db)
    else:
        _count(db, segments, -1)


def _put_checksums(db: sqlite3.Connection, id: str, sums: Checksums) -> None:
    db.execute("DELETE FROM checksums WHERE snapshot = ?", (id,))
    db.executemany("INSERT INTO checksums VALUES (?, ?, ?)", [(id, file, mine) for file, mine in sums.items()])


def _recount(db: sqlite3.Connection) -> None:
    """Count all references anew, from the recipes that can be read."""
    db.execute("UPDATE segments SET refs = 0")
    for row in db.execute("SELECT recipe, recipe_digest FROM snapshots WHERE recipe IS NOT NULL").fetchall():
        with contextlib.suppress(Damaged):
            _count(db, decode(*row).segments(), 1)


def _record(row: tuple[str, str | None, int, int | None]) -> SnapshotRecord:
    text, parent, logical, stored = row
    record = SnapshotRecord.model_validate_json(text)
    return record.model_copy(update={"parent": parent, "logical_bytes": logical, "stored_bytes": stored})


def _missing(id: str) -> SnapshotNotFound:
    return SnapshotNotFound(f"snapshot {id} is not on this node", snapshot=id)
