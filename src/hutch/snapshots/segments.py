"""Chunks, segments and packs in the index: what is stored, where, and who needs it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from hutch.snapshots.index import Index
from hutch.snapshots.packs import PackWriter, Segment

T = TypeVar("T")

BATCH = 1000
"""Rows in one transaction."""
SHARED = 0
"""The domain of the host's own snapshots (templates): everyone's chunks may be found in it."""


@dataclass(frozen=True)
class Chunk:
    """Where a chunk's bytes are: in a segment, from `offset` on."""

    hash: bytes
    segment: int
    offset: int


@dataclass(frozen=True)
class Located:
    """A segment, and its pack's name."""

    segment: Segment
    pack: str


class Segments:
    """What may be collected is decided here, in one place: a segment that no snapshot refers to (`refs`) and that no
    ingest now running counts on (a pin). Looking up a chunk and pinning its segment is one step."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._pins: list[set[int]] = []
        with index.read() as db:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").fetchone()
        self._last = int(row[0]) if row else 0

    def new_id(self) -> int:
        """A number that no segment has, or had."""
        with self._index.read():
            self._last += 1
            return self._last

    def domain(self, org: str | None) -> int:
        """Chunks are shared within an organisation, and with the host's own, never between two organisations: what
        one stores must not tell it what another has."""
        if org is None:
            return SHARED
        with self._index.write() as db:
            db.execute("INSERT OR IGNORE INTO domains (org) VALUES (?)", (org,))
            return int(db.execute("SELECT id FROM domains WHERE org = ?", (org,)).fetchone()[0])

    @contextmanager
    def pinning(self) -> Iterator[set[int]]:
        """A set of segments that are not collected as long as this lasts."""
        pins: set[int] = set()
        with self._index.read():
            self._pins.append(pins)
        try:
            yield pins
        finally:
            with self._index.read():
                self._pins = [other for other in self._pins if other is not pins]

    def pin(self, ids: Iterable[int], pins: set[int]) -> None:
        """Keep these from being collected, as long as they are not already."""
        with self._index.read():
            pins.update(ids)

    def find(self, hashes: list[bytes], domain: int, pins: set[int]) -> dict[bytes, Chunk]:
        """Those of the chunks that are stored; their segments are pinned."""
        marks = ",".join("?" * len(hashes))
        query = f"SELECT hash, segment, offset FROM chunks WHERE hash IN ({marks}) AND domain IN ({SHARED}, ?)"  # noqa: S608
        with self._index.read() as db:
            found = {row[0]: Chunk(*row) for row in db.execute(query, (*hashes, domain))}
            pins.update(chunk.segment for chunk in found.values())
        return found

    def add(self, pack: PackWriter, chunks: Iterable[Chunk], domain: int, pins: set[int]) -> None:
        """Enter a durable pack and what is in it; its segments are pinned. Raises `DiskFull`.

        The chunks follow in transactions of their own: one that is not entered is only not found again.
        """
        with self._index.write() as db:
            number = _insert_pack(db, pack)
            db.executemany(
                "INSERT INTO segments (id, pack, offset, stored, raw, digest, domain) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(s.id, number, s.offset, s.stored, s.raw, s.digest, domain) for s in pack.segments],
            )
            pins.update(segment.id for segment in pack.segments)
        rows = ((chunk.hash, domain, chunk.segment, chunk.offset) for chunk in chunks)
        for batch in _batches(rows):
            with self._index.write() as db:
                db.executemany(
                    "INSERT OR IGNORE INTO chunks (hash, domain, segment, offset) VALUES (?, ?, ?, ?)", batch
                )

    def locate(self, ids: Iterable[int]) -> list[Located]:
        """Where these segments are, in the order in which they are best read; without those that are not there."""
        found = []
        for batch in _batches(ids):
            marks = ",".join("?" * len(batch))
            query = f"SELECT {_COLUMNS} FROM segments s JOIN packs p ON p.id = s.pack WHERE s.id IN ({marks})"  # noqa: S608
            with self._index.read() as db:
                found += [_located(row) for row in db.execute(query, batch)]
        return sorted(found, key=lambda located: (located.pack, located.segment.offset))

    def after(self, id: int, count: int) -> list[Located]:
        """The next segments that are needed, after number `id`."""
        query = f"""SELECT {_COLUMNS} FROM segments s JOIN packs p ON p.id = s.pack
            WHERE s.id > ? AND s.refs > 0 ORDER BY s.id LIMIT ?"""  # noqa: S608
        with self._index.read() as db:
            return [_located(row) for row in db.execute(query, (id, count))]

    def distrust(self, id: int) -> None:
        """Let no new snapshot refer to a segment that turned out to be damaged."""
        with self._index.write() as db:
            db.execute("DELETE FROM chunks WHERE segment = ?", (id,))

    def drop_unused(self) -> int:
        """Take out all segments that nobody needs; how many bytes they have in their packs. Raises `DiskFull`."""
        dropped = 0
        with self._index.read() as db:
            unused = db.execute("SELECT id, stored FROM segments WHERE refs = 0").fetchall()
        for batch in _batches(unused):
            with self._index.write() as db:
                pinned = set().union(*self._pins)
                for id, stored in batch:
                    gone = id not in pinned and db.execute("DELETE FROM segments WHERE id = ? AND refs = 0", (id,))
                    if gone and gone.rowcount:
                        db.execute("DELETE FROM chunks WHERE segment = ?", (id,))
                        dropped += stored
        return dropped

    def drop_empty_packs(self) -> list[str]:
        """Take out the packs in which nothing is any more; their names, for their files to be deleted."""
        with self._index.write() as db:
            rows = db.execute("DELETE FROM packs WHERE id NOT IN (SELECT pack FROM segments) RETURNING name")
            return [name for (name,) in rows.fetchall()]

    def packs(self) -> list[tuple[str, int, int]]:
        """Name, bytes, and bytes of segments in it, for each pack; the emptiest first."""
        query = """SELECT p.name, p.bytes, COALESCE(SUM(s.stored), 0) AS live FROM packs p
            LEFT JOIN segments s ON s.pack = p.id GROUP BY p.id ORDER BY 1.0 * live / p.bytes"""
        with self._index.read() as db:
            return db.execute(query).fetchall()

    def pack_names(self) -> set[str]:
        """Of all packs."""
        with self._index.read() as db:
            return {name for (name,) in db.execute("SELECT name FROM packs")}

    def of_pack(self, name: str) -> list[Segment]:
        """The segments in a pack, first to last."""
        query = f"SELECT {_COLUMNS} FROM segments s JOIN packs p ON p.id = s.pack WHERE p.name = ? ORDER BY s.offset"  # noqa: S608
        with self._index.read() as db:
            return [_located(row).segment for row in db.execute(query, (name,))]

    def move(self, pack: PackWriter) -> None:
        """From now on the segments of this durable pack are here, and no longer where they were. Raises `DiskFull`."""
        with self._index.write() as db:
            number = _insert_pack(db, pack)
            db.executemany(
                "UPDATE segments SET pack = ?, offset = ? WHERE id = ?",
                [(number, segment.offset, segment.id) for segment in pack.segments],
            )

    def unique_bytes(self, org: str | None) -> int:
        """Compressed bytes that are stored for an organisation alone."""
        query = """SELECT COALESCE(SUM(stored), 0) FROM segments WHERE refs > 0
            AND domain = CASE WHEN ?1 IS NULL THEN ?2 ELSE (SELECT id FROM domains WHERE org = ?1) END"""
        with self._index.read() as db:
            return int(db.execute(query, (org, SHARED)).fetchone()[0])


def _batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """A few at a time: whoever wants to enter a new snapshot waits for no more than one batch."""
    left = iter(rows)
    while batch := list(islice(left, BATCH)):
        yield batch


_COLUMNS = "s.id, s.digest, s.raw, s.stored, s.offset, p.name"


def _located(row: tuple[int, bytes, int, int, int, str]) -> Located:
    return Located(Segment(*row[:5]), row[5])


def _insert_pack(db: sqlite3.Connection, pack: PackWriter) -> int:
    return int(db.execute("INSERT INTO packs (name, bytes) VALUES (?, ?)", (pack.name, pack.size)).lastrowid or 0)
