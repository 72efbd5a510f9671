"""The issuer: what it signs holds, as long as its key and its minutes do, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest

from hutch.identity import signing
from hutch.identity.issuer import Issuer, Sealing
from hutch.secrets import Vault
from hutch.store import Store

URL = "https://api.hutch.example"
CLAIMS: dict[str, Any] = {"sub": "org:o:app:-:task:t", "sandbox": "sbx_a"}


@dataclass
class World:
    store: Store
    now: float = field(default_factory=time.time)

    def issuer(self, **options: Any) -> Issuer:
        vault = Vault(bytes(32))
        given = {"url": URL, "token_seconds": 300, "key_seconds": 86400, "grace": 3600} | options
        return Issuer(self.store, Sealing(vault.seal, vault.unseal), clock=lambda: self.now, **given)


@pytest.fixture
async def world(tmp_path: Path, database: Callable[[Path], str]) -> AsyncIterator[World]:
    store = await Store.open(database(tmp_path / "hutch.db"))
    yield World(store)
    await store.close()


async def states(issuer: Issuer) -> list[str]:
    return [key.state for key in (await issuer.info()).keys]


async def test_a_token_is_verified_with_what_is_published_alone(world: World) -> None:
    issuer = world.issuer()
    token, expires = await issuer.sign(CLAIMS, "vault")
    assert expires == int(world.now) + 300
    keys = jwt.PyJWKSet.from_dict(await issuer.published())
    kid = jwt.get_unverified_header(token)["kid"]
    said = jwt.decode(token, keys[kid].key, algorithms=["RS256"], audience="vault", issuer=URL)
    assert said["sub"] == CLAIMS["sub"] and said["aud"] == "vault" and said["exp"] - said["iat"] == 300
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token, keys[kid].key, algorithms=["RS256"], audience="another", issuer=URL)


async def test_published_keys_have_no_secret_part(world: World) -> None:
    issuer = world.issuer()
    await issuer.sign(CLAIMS, "a")
    for key in (await issuer.published())["keys"]:
        assert set(key) == {"kid", "kty", "use", "alg", "n", "e"}
    for row in await world.store.identity_keys.all():
        assert b"PRIVATE" not in row.sealed


async def test_what_is_forged_or_old_does_not_hold(world: World) -> None:
    issuer = world.issuer()
    token, expires = await issuer.sign(CLAIMS, "a")
    assert (await issuer.verify(token) or {})["sandbox"] == "sbx_a"
    kid, claims = jwt.get_unverified_header(token)["kid"], jwt.decode(token, options={"verify_signature": False})
    pem, _ = signing.make_key()
    head, body, tail = token.split(".")
    forged = [
        signing.sign(claims, signing.load_key(pem), kid),
        signing.sign(claims, signing.load_key(pem), "unknown"),
        jwt.encode(claims, "", algorithm="none", headers={"kid": kid}),
        f"{head}.{body[:-4]}AAAA.{tail}",
        f"{head}.{body}.",
        "x",
        "",
        "ü.ü.ü",
    ]
    assert [await issuer.verify(each) for each in forged] == [None] * len(forged)
    assert await world.issuer(url="https://elsewhere.example").verify(token) is None
    world.now = expires + signing.LEEWAY + 1
    assert await issuer.verify(token) is None


async def test_the_next_key_is_published_before_its_turn_and_the_old_one_after_it(world: World) -> None:
    issuer = world.issuer(token_seconds=900)
    old, _ = await issuer.sign(CLAIMS, "a")
    before = {key["kid"] for key in (await issuer.published())["keys"]}
    await issuer.rotate()
    assert await states(issuer) == ["retired", "current", "next"]
    new, _ = await issuer.sign(CLAIMS, "a")
    assert jwt.get_unverified_header(new)["kid"] in before  # a verifier that has kept the keys knows it
    assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
    assert await issuer.verify(old) and await issuer.verify(new)
    assert before < {key["kid"] for key in (await issuer.published())["keys"]}


async def test_after_the_grace_the_old_key_is_gone(world: World) -> None:
    issuer = world.issuer(token_seconds=900)
    old, _ = await issuer.sign(CLAIMS, "a")
    await issuer.rotate(grace=100)
    world.now += 99
    assert await issuer.verify(old)
    world.now += 1
    assert await issuer.verify(old) is None
    assert jwt.get_unverified_header(old)["kid"] not in {key["kid"] for key in (await issuer.published())["keys"]}
    await issuer.rotate()
    assert await states(issuer) == ["retired", "current", "next"]  # its row went with the next change


async def test_without_grace_nothing_of_the_old_keys_holds(world: World) -> None:
    issuer = world.issuer()
    first, _ = await issuer.sign(CLAIMS, "a")
    await issuer.rotate()
    second, _ = await issuer.sign(CLAIMS, "a")
    await issuer.rotate(grace=0)
    third, _ = await issuer.sign(CLAIMS, "a")
    assert [await issuer.verify(each) is not None for each in (first, second, third)] == [False, False, True]


async def test_a_key_that_has_signed_for_long_enough_is_changed_once(world: World) -> None:
    first, second = world.issuer(key_seconds=1000), world.issuer(key_seconds=1000)
    assert not await first.rotate_when_due()  # there is none
    await first.sign(CLAIMS, "a")
    world.now += 999
    assert not await first.rotate_when_due()
    world.now += 1
    assert sorted(await asyncio.gather(first.rotate_when_due(), second.rotate_when_due())) == [False, True]
    assert await states(first) == ["retired", "current", "next"]


async def test_two_processes_that_make_the_first_keys_have_the_same_ones(world: World) -> None:
    first, second = world.issuer(), world.issuer()
    one, other = await asyncio.gather(first.sign(CLAIMS, "a"), second.sign(CLAIMS, "a"))
    assert await states(first) == ["current", "next"]
    assert await first.verify(other[0]) and await second.verify(one[0])
