"""Keys against a real database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hutch.errors import Conflict, NotFound, Unauthorized
from hutch.identity import KeyRing
from hutch.identity import keys as keys_module
from hutch.identity.token import new_token, parse_token
from hutch.model import CreateKey
from hutch.store import Store


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, database: Callable[[Path], str]) -> AsyncIterator[Store]:
    opened = await Store.open(database(tmp_path / "keys.db"))
    yield opened
    await opened.close()


@pytest.fixture
async def ring(store: Store, clock: Clock) -> AsyncIterator[KeyRing]:
    made = KeyRing(store, clock)
    yield made
    await made.close()


def test_key_has_256_random_bits_and_parses_back() -> None:
    token = new_token()
    assert re.fullmatch(r"hk_[a-z2-7]{22}_[a-z2-7]{52}", token.text)
    assert parse_token(token.text) == token
    assert token.text not in repr(token)


@pytest.mark.parametrize(
    "text", ["", "hk_", "hk_a_b", "sk-ant-xyz", "hk_" + "a" * 22 + "_" + "A" * 52, "hk\x00", "é" * 80]
)
def test_what_is_not_a_key_does_not_parse(text: str) -> None:
    assert parse_token(text) is None


async def test_right_key_is_its_caller(ring: KeyRing) -> None:
    made = await ring.create(CreateKey(name="ci"))
    caller = await ring.check(made.key)
    assert (caller.key_id, caller.org) == (made.id, "org_default")


async def test_secret_is_stored_only_as_a_hash(ring: KeyRing, tmp_path: Path) -> None:
    made = await ring.create(CreateKey(name="ci"))
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made.id.encode() in written
    assert made.key.encode() not in written and made.key.rsplit("_")[-1].encode() not in written


@pytest.mark.parametrize("text", [None, "", "nonsense", "hk_" + "a" * 22 + "_" + "b" * 52])
async def test_missing_malformed_and_unknown_keys_are_refused(ring: KeyRing, text: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ring.check(text)
    assert caught.value.hint


async def test_wrong_secret_of_a_known_key_is_refused_as_an_unknown_one_is(ring: KeyRing) -> None:
    made = await ring.create(CreateKey(name="ci"))
    wrong = made.key[:-1] + ("a" if made.key[-1] != "a" else "b")
    with pytest.raises(Unauthorized) as of_known:
        await ring.check(wrong)
    with pytest.raises(Unauthorized) as of_unknown:
        await ring.check(new_token().text)
    assert str(of_known.value) == str(of_unknown.value)


async def test_expired_key_is_refused_with_a_word_why(ring: KeyRing, clock: Clock) -> None:
    made = await ring.create(CreateKey(name="short", expires_in=60))
    await ring.check(made.key)
    clock.now += 60
    with pytest.raises(Unauthorized, match="expired"):
        await ring.check(made.key)


async def test_revocation_holds_at_once(ring: KeyRing) -> None:
    made, _ = await ring.create(CreateKey(name="a")), await ring.create(CreateKey(name="b"))
    await ring.check(made.key)
    await ring.revoke(made.id)
    with pytest.raises(Unauthorized, match="revoked"):
        await ring.check(made.key)
    await ring.revoke(made.id)  # again does no harm


async def test_revocation_by_another_process_holds_within_seconds(
    ring: KeyRing, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "CACHE_SECONDS", 0.05)
    made, _ = await ring.create(CreateKey(name="a")), await ring.create(CreateKey(name="b"))
    await ring.check(made.key)
    await KeyRing(store).revoke(made.id)
    await asyncio.sleep(0.06)
    with pytest.raises(Unauthorized):
        await ring.check(made.key)


async def test_checking_a_key_again_asks_no_database(
    ring: KeyRing, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await ring.create(CreateKey(name="a"))
    await ring.check(made.key)
    monkeypatch.setattr(store.keys, "get", None)
    await ring.check(made.key)


async def test_a_flood_of_unknown_ids_does_not_fill_the_memory(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_CACHE_SIZE", 10)
    for _ in range(30):
        with pytest.raises(Unauthorized):
            await ring.check(new_token().text)
    assert len(ring._cache) == 10


async def test_last_working_key_cannot_be_revoked(ring: KeyRing, clock: Clock) -> None:
    last = await ring.create(CreateKey(name="last"))
    expired = await ring.create(CreateKey(name="expired", expires_in=1))
    clock.now += 2
    with pytest.raises(Conflict):
        await ring.revoke(last.id)
    await ring.revoke(expired.id)
    await ring.check(last.key)


async def test_unknown_key_cannot_be_revoked(ring: KeyRing) -> None:
    with pytest.raises(NotFound):
        await ring.revoke("key_" + "a" * 22)


async def test_list_shows_no_secret(ring: KeyRing) -> None:
    made = await ring.create(CreateKey(name="ci"))
    (listed,) = await ring.list()
    assert listed.name == "ci" and made.key.startswith(listed.prefix)
    assert made.key not in listed.model_dump_json()


async def test_use_is_noted(ring: KeyRing) -> None:
    made = await ring.create(CreateKey(name="ci"))
    await ring.check(made.key)
    await ring.close()
    assert (await ring.list())[0].last_used_at is not None


async def test_first_key_is_made_once(ring: KeyRing) -> None:
    delivered: list[str] = []
    assert await ring.create_first(delivered.append)
    assert not await ring.create_first(delivered.append)
    assert len(delivered) == 1
    await ring.check(delivered[0])


async def test_servers_that_start_at_once_make_one_first_key(tmp_path: Path) -> None:
    delivered: list[str] = []
    stores = [await Store.open(f"sqlite:///{tmp_path}/keys.db") for _ in range(4)]
    try:
        made = await asyncio.gather(*(KeyRing(store).create_first(delivered.append) for store in stores))
        assert sorted(made) == [False, False, False, True] and len(delivered) == 1
    finally:
        for store in stores:
            await store.close()


async def test_first_key_that_could_not_be_handed_over_is_not_kept(ring: KeyRing) -> None:
    def broken(_: str) -> None:
        raise OSError("no reader")

    with pytest.raises(OSError):
        await ring.create_first(broken)
    delivered: list[str] = []
    assert await ring.create_first(delivered.append)
