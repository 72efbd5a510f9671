"""The audit log is a chain: what is done to it shows, and what is recorded stays."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Executable, delete, select, text, update
from sqlalchemy.exc import DBAPIError
from tests.tampering import unlock

from hutch.model.audit import GENESIS, TRIMMED, AuditHead, AuditKey, AuditRecord, Verifier, canonical, dropped
from hutch.store import Store
from hutch.store.audit import MAX_DETAIL, Acting, Event, acting, append
from hutch.store.tables import audit_heads, audit_records

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")


def event(number: int = 0, org: str = "o", **more: Any) -> Event:
    return Event(org, "call", f"sbx_{number}", "begun", {"number": number}, **more)


def signature(what: bytes) -> str:
    return b64encode(KEY.sign(what)).decode()


async def sign(store: Store, key: Ed25519PrivateKey = KEY, at: str | None = None) -> None:
    for org, seq, digest in await store.audit.unsigned():
        hour = f"2026-01-{1 + seq // 24:02}T{seq % 24:02}:00:00.000Z" if at is None else at
        head = AuditHead(org=org, seq=seq, hash=digest, time=hour, signature="")
        await store.audit.add_head(head.model_copy(update={"signature": b64encode(key.sign(head.signed())).decode()}))


async def export(store: Store, key: Ed25519PrivateKey = KEY, org: str = "o") -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        AuditKey(public=b64encode(key.public_key().public_bytes_raw()).decode()).model_dump()
    ]
    heads = {head.seq: head for head in await store.audit.heads(org)}
    for record in await store.audit.page(org, 0, 10_000):
        lines.append(json.loads(record.model_dump_json()))
        if record.seq in heads:
            lines.append(heads[record.seq].model_dump())
    return lines


def wrong(lines: list[dict[str, Any]], pinned: str | None = None, known: AuditHead | None = None) -> list[str]:
    return list(Verifier(pinned, known).read(lines))


@pytest.fixture
async def lines(store: Store) -> list[dict[str, Any]]:
    """Key, records 1 to 3, head, records 4 to 6, head."""
    for number in range(6):
        await store.audit.record(event(number))
        if number in (2, 5):
            await sign(store)
    return await export(store)


async def test_a_chain_that_nobody_touched_is_whole(lines: list[dict[str, Any]]) -> None:
    verifier = Verifier()
    assert list(verifier.read(lines)) == []
    assert (verifier.records, verifier.heads) == (6, 2)
    assert [line["seq"] for line in lines if line["type"] == "record"] == [1, 2, 3, 4, 5, 6]
    assert lines[1]["prev"] == GENESIS


@pytest.mark.parametrize("field", ["time", "actor", "action", "subject", "outcome", "request", "detail"])
async def test_an_edited_record_is_found(lines: list[dict[str, Any]], field: str) -> None:
    lines[2][field] = {"number": 9} if field == "detail" else "other"
    assert wrong(lines) == ["record 2 was changed: it does not have the hash that it names"]


async def test_an_edited_record_with_a_new_hash_is_found(store: Store, lines: list[dict[str, Any]]) -> None:
    lines[2]["actor"] = "another"
    lines[2]["hash"] = AuditRecord.model_validate(lines[2]).digest()
    assert wrong(lines) == ["record 3 does not follow on 2: one of them was put in another's place"]


@pytest.mark.parametrize("gone", [1, 2, 3, 5, 6, 7])
async def test_a_removed_record_is_found(lines: list[dict[str, Any]], gone: int) -> None:
    del lines[gone]
    assert any("missing" in each for each in wrong(lines))


async def test_moved_records_are_found(lines: list[dict[str, Any]]) -> None:
    lines[2], lines[3] = lines[3], lines[2]
    assert any("stands after" in each for each in wrong(lines))
    lines[2]["seq"], lines[3]["seq"] = 2, 3
    assert any("was changed" in each for each in wrong(lines))


async def test_a_chain_made_anew_without_the_key_is_found(store: Store, lines: list[dict[str, Any]]) -> None:
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(delete(audit_records))
    for number in range(6):
        await store.audit.record(event(number + 100))
    assert any("not the one that was signed" in each for each in wrong(await export(store)))
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM audit_heads"))
    await sign(store, OTHER_KEY)
    pinned = lines[0]["public"]
    assert any("another key" in each for each in wrong(await export(store, OTHER_KEY), pinned))
    forged = await export(store)  # the right key, heads of another
    assert any("not signed with this server's key" in each for each in wrong(forged))


async def test_a_cut_end_is_found_by_who_has_kept_a_head(store: Store, lines: list[dict[str, Any]]) -> None:
    head = AuditHead.model_validate(lines[-1])
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM audit_records WHERE seq > 3"))
        await connection.execute(text("DELETE FROM audit_heads WHERE seq > 3"))
    cut = await export(store)
    assert wrong(cut) == []
    assert wrong(cut, known=head) == ["records 4 to 6 are missing: they were in the earlier export"]
    for number in range(6):
        await store.audit.record(event(number + 100))
    await sign(store)
    assert wrong(await export(store), known=head) == ["record 6 is another than in the earlier export"]


async def test_an_end_that_is_not_signed_is_told(store: Store, lines: list[dict[str, Any]]) -> None:
    await store.audit.record(event(7))
    assert wrong(await export(store)) == ["its end is not signed"]


CHANGES = {
    "edited": update(audit_records).where(audit_records.c.seq == 2).values(actor="another"),
    "edited, all": update(audit_records).values(org="p"),
    "removed": delete(audit_records).where(audit_records.c.seq == 2),
    "cut": delete(audit_records).where(audit_records.c.seq > 3),
    "emptied": delete(audit_records),
    "head edited": update(audit_heads).values(signature="another"),
    "head removed": delete(audit_heads).where(audit_heads.c.seq == 6),
    "heads removed": delete(audit_heads),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_the_database_refuses_to_change_what_is_recorded(
    store: Store, lines: list[dict[str, Any]], change: Executable
) -> None:
    with pytest.raises(DBAPIError, match="of the audit log cannot be"):
        async with store.database.write() as connection:
            await connection.execute(change)
    assert await export(store) == lines


async def test_nor_can_a_record_be_put_into_anothers_place(store: Store, lines: list[dict[str, Any]]) -> None:
    row = await _row_of(store, 3)
    for seq in (0, 3, 6, 8):
        values = row | {"seq": seq, "actor": "another"}
        ways: list[Executable] = [audit_records.insert().values(values)]
        if store.database.sqlite:
            ways.append(audit_records.insert().prefix_with("OR REPLACE").values(values))
        for way in ways:
            with pytest.raises(DBAPIError, match="only be added at its end"):
                async with store.database.write() as connection:
                    await connection.execute(way)
    if not store.database.sqlite:
        with pytest.raises(DBAPIError, match="cannot be emptied"):
            async with store.database.write() as connection:
                await connection.execute(text("TRUNCATE audit_records, audit_heads"))
    assert await export(store) == lines


async def test_who_does_not_own_the_tables_can_write_the_log_and_not_unlock_it(postgresql: str) -> None:
    owner = await Store.open(postgresql)
    async with owner.database.write() as connection:
        await connection.execute(text("CREATE ROLE serving LOGIN"))
        await connection.execute(text("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO serving"))
    server = await Store.open(postgresql.replace("hutch@", "serving@"))
    try:
        await server.audit.record(event())
        await sign(server)
        for statement in (
            *("ALTER TABLE audit_records DISABLE TRIGGER USER", "SET session_replication_role = replica"),
            *("DROP FUNCTION audit_records_delete() CASCADE", "TRUNCATE audit_records", "DROP TABLE audit_records"),
        ):
            with pytest.raises(DBAPIError, match=r"must be owner|permission denied"):
                async with server.database.write() as connection:
                    await connection.execute(text(statement))
        assert wrong(await export(server)) == []
    finally:
        await server.close()
        async with owner.database.write() as connection:
            await connection.execute(text("DROP OWNED BY serving"))
            await connection.execute(text("DROP ROLE serving"))
        await owner.close()


async def test_what_is_dropped_is_what_a_record_says_and_of_one_organisation(store: Store) -> None:
    for number in range(6):
        await store.audit.record(event(number))
        await store.audit.record(event(number, "p"))
    said = {"through": 3, "hash": "h", "signature": "s"}
    await store.audit.record(Event("o", TRIMMED, "o", "dropped", said))
    gone = delete(audit_records).where(audit_records.c.seq <= 3)
    more = delete(audit_records).where(audit_records.c.seq == 4)
    for refused in (gone, gone.where(audit_records.c.org == "p"), more):
        with pytest.raises(DBAPIError, match="cannot be removed"):
            async with store.database.write() as connection:
                await connection.execute(refused)
    async with store.database.write() as connection:
        await connection.execute(gone.where(audit_records.c.org == "o"))
    assert [record.seq for record in await store.audit.page("o", 0, 10)] == [4, 5, 6, 7]


async def _row_of(store: Store, seq: int) -> dict[str, Any]:
    async with store.database.read() as connection:
        found = await connection.execute(select(audit_records).where(audit_records.c.seq == seq))
        return dict(found.mappings().one())


async def test_old_records_go_and_a_record_says_so(store: Store) -> None:
    now = datetime.now(UTC)
    for number in range(4):
        await store.audit.record(event(number, time=now - timedelta(days=9 - number)))
    await sign(store)
    for number in range(4, 6):
        await store.audit.record(event(number))
    await sign(store)
    assert await store.audit.trim(now - timedelta(days=7, hours=1), signature) == 2
    assert await store.audit.trim(now - timedelta(days=7, hours=1), signature) == 0
    await sign(store)
    assert wrong(await export(store)) == []
    assert await store.audit.trim(now + timedelta(days=1), signature) == 4  # the newest that is signed stays
    await sign(store)
    assert wrong(await export(store)) == []
    await unlock(store)
    async with store.database.write() as connection:  # more than the record says
        await connection.execute(text("DELETE FROM audit_records WHERE seq = (SELECT min(seq) FROM audit_records)"))
    assert wrong(await export(store))


async def test_who_has_not_the_key_cannot_say_that_records_were_dropped(store: Store) -> None:
    for number in range(4):
        await store.audit.record(event(number))
    page = await store.audit.page("o", 0, 10)
    for forged in ({}, {"signature": b64encode(OTHER_KEY.sign(dropped("o", 2, page[1].hash))).decode()}):
        await store.audit.record(Event("o", TRIMMED, "o", "dropped", {"through": 2, "hash": page[1].hash} | forged))
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM audit_records WHERE seq <= 2"))
    await sign(store)
    found = wrong(await export(store))
    assert len([each for each in found if "is not signed with this server" in each]) == 2
    assert any("records 1 to 2 are missing" in each for each in found)


async def test_one_head_an_hour_is_kept(store: Store) -> None:
    for minute in ("10:01", "10:59", "11:00", "11:01"):
        await store.audit.record(event())
        await sign(store, at=f"2026-01-01T{minute}:00.000Z")
    assert [head.seq for head in await store.audit.heads("o")] == [2, 4]
    assert wrong(await export(store)) == []
    assert await store.audit.unsigned() == []


async def test_organisations_have_chains_of_their_own(store: Store) -> None:
    async with store.database.write() as connection:
        await append(connection, event(1, "a"), event(1, "b"), event(2, "a"))
    await store.audit.record(event(2, "b"))
    assert [record.seq for record in await store.audit.page("a", 0, 10)] == [1, 2]
    await sign(store)
    assert [wrong(await export(store, org=org)) for org in ("a", "b")] == [[], []]


async def test_many_at_once_are_one_chain(store: Store) -> None:
    async def in_a_transaction(number: int) -> None:
        async with store.database.write() as connection:
            await append(connection, event(number))

    await asyncio.gather(
        *(store.audit.record(event(number)) for number in range(50)), *map(in_a_transaction, range(20))
    )
    await sign(store)
    found = await export(store)
    assert wrong(found) == []
    assert len(found) == 1 + 70 + 1


async def test_two_servers_of_one_database_make_one_chain(store: Store, each_database: str) -> None:
    other = await Store.open(each_database)
    try:
        await asyncio.gather(*(each.audit.record(event(number)) for number in range(20) for each in (store, other)))
    finally:
        await other.close()
    await sign(store)
    found = await export(store)
    assert wrong(found) == []
    assert len(found) == 1 + 40 + 1


async def test_what_is_undone_is_not_recorded(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.database.write() as connection:
            await append(connection, event(1))
            raise ZeroDivisionError
    assert await store.audit.page("o", 0, 10) == []


async def test_who_acts_is_recorded_also_of_what_was_begun_then(store: Store) -> None:
    with acting("key_a", "req_1"):
        first = asyncio.create_task(store.audit.record(event(1)))
        later = asyncio.create_task(_later(store))
    await store.audit.record(event(3))
    await asyncio.gather(first, later)
    found = {record.subject: (record.actor, record.request) for record in await store.audit.page("o", 0, 10)}
    assert found == {"sbx_1": ("key_a", "req_1"), "sbx_2": ("key_a", "req_1"), "sbx_3": ("hutch", "")}


async def _later(store: Store) -> None:
    await asyncio.sleep(0)
    await store.audit.record(event(2))


async def test_a_disk_that_is_full_is_told_to_all_who_wait(store: Store) -> None:
    async with store.database.write() as connection:
        await connection.execute(text("DROP TABLE audit_records"))
    results = await asyncio.gather(*(store.audit.record(event(1)) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, Exception) for each in results)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
async def test_whatever_is_told_is_kept_so_that_it_verifies(store: Store, detail: dict[str, Any]) -> None:
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM audit_records"))
    await store.audit.record(Event("o", "call", "x" * 100, "y" * 100, detail, by=Acting("hutch")))
    (record,) = await store.audit.page("o", 0, 10)
    assert record.digest() == record.hash


async def test_who_pads_a_call_hides_nothing_else_of_it(store: Store) -> None:
    labels = {str(number): "x" * 500 for number in range(60)}
    detail = {"path": "/v1/x", "body": {"command": "true " + " " * 600 + "; evil", "labels": labels, "turn": 7}}
    await store.audit.record(Event("o", "call", "", "", detail))
    (record,) = await store.audit.page("o", 0, 10)
    body = record.detail["body"]
    assert (record.detail["path"], body["turn"]) == ("/v1/x", 7) and set(body["labels"]) == {"bytes", "sha256"}
    assert sha256(detail["body"]["command"].encode()).hexdigest() in body["command"]  # type: ignore[index]


async def test_what_is_told_is_bounded(store: Store) -> None:
    await store.audit.record(Event("o", "call", "", "", {str(number): "x" * 10_000 for number in range(1000)}))
    (record,) = await store.audit.page("o", 0, 10)
    assert len(canonical(record.detail)) <= MAX_DETAIL


async def test_a_record_that_is_changed_in_the_database_is_found(store: Store, lines: list[dict[str, Any]]) -> None:
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(update(audit_records).where(audit_records.c.seq == 4).values(actor="key_b"))
    assert wrong(await export(store)) == ["record 4 was changed: it does not have the hash that it names"]
