"""The server signs what goes on from what it has signed, and nothing else, whoever has written to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import delete, text, update
from tests.tampering import unlock

from hutch.control.audit import Audit
from hutch.control.context import Context
from hutch.model.audit import Verifier
from hutch.secrets import Vault
from hutch.settings import Settings
from hutch.store.audit import Acting, Event
from hutch.store.store import Store
from hutch.store.tables import audit_heads, audit_records

Servers = Callable[[], Audit]


@pytest.fixture
async def store(settings: Settings, each_database: str) -> AsyncIterator[Store]:
    settings.server_dir.mkdir(parents=True, exist_ok=True)
    store = await Store.open(each_database)
    yield store
    await store.close()


@pytest.fixture
def server(settings: Settings, store: Store) -> Servers:
    """Each call is the server, started anew."""
    vault = Vault.open_file(settings.server_dir / "master.key")
    return lambda: Audit(cast(Context, SimpleNamespace(store=store, settings=settings, vault=vault)))


async def record(store: Store, *actors: str) -> None:
    for actor in actors:
        await store.audit.record(Event("o", "call", "", "200", by=Acting(actor)))


async def found(server: Audit) -> list[str]:
    lines = [line.model_dump() async for line in server.export("o")]
    return list(Verifier(server.key.public).read(lines))


async def remade(store: Store, *actors: str) -> None:
    """A chain that is whole by itself, made with nothing but the database."""
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(delete(audit_records))
        await connection.execute(delete(audit_heads))
    await record(store, *actors)


async def edited(store: Store) -> None:
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(update(audit_records).where(audit_records.c.seq == 2).values(actor="key_other"))


async def cut(store: Store) -> None:
    await unlock(store)
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM audit_records WHERE seq > 2"))
        await connection.execute(delete(audit_heads))


async def cut_and_goes_on(store: Store) -> None:
    await cut(store)
    await record(store, "key_d", "key_e", "key_f", "key_g")


async def test_what_goes_on_is_signed_over_restarts(store: Store, server: Servers) -> None:
    for _ in range(3):
        await record(store, "key_a", "key_b")
        assert await found(server()) == []
    assert len(await store.audit.heads("o")) > 0 and not await store.audit.unsigned()


@pytest.mark.parametrize(
    "tampered",
    [
        lambda store: remade(store, "key_a", "key_other", "key_c"),
        lambda store: remade(store, "key_a", "key_other", "key_c", "key_d", "key_e"),
        edited,
        cut,
        cut_and_goes_on,
    ],
    ids=["made anew", "made anew, longer", "edited", "cut", "cut, and goes on"],
)
async def test_what_was_changed_in_the_database_is_found(
    store: Store, server: Servers, tampered: Callable[[Store], Awaitable[Any]]
) -> None:
    await record(store, "key_a", "key_b", "key_c")
    assert await found(server()) == []
    await tampered(store)
    assert await found(server())
    await record(store, "key_z")
    assert await found(server())  # nor does it heal by itself


async def test_records_that_break_the_chain_after_a_head_are_not_signed(store: Store, server: Servers) -> None:
    await record(store, "key_a")
    await server().sign()
    await record(store, "key_b", "key_c")
    await edited(store)
    assert "its end is not signed" in await found(server())


async def test_without_its_file_the_server_goes_on_from_the_newest_good_head(
    settings: Settings, store: Store, server: Servers
) -> None:
    await record(store, "key_a", "key_b")
    await server().sign()
    Path(settings.server_dir / "audit.heads").unlink()
    await record(store, "key_c")
    assert await found(server()) == []
