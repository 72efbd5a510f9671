"""Records: what a new daemon finds after the old one was killed."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from hutch.model import DenyAll, LimitBreach, LlmGrant, Resources, new_id
from hutch.node.entry import Entry, Registry
from hutch.node.records import RecordStore, SandboxRecord
from hutch.runtime.base import Stats


def make_record(id: str | None = None) -> SandboxRecord:
    return SandboxRecord(
        id=id or new_id("sbx"),
        step="booting",
        template="standard",
        resources=Resources(cpus=1, memory_mib=512, disk_mib=1024, pids=256),
        network=DenyAll(),
        deadline=time.time() + 60,
        guest_token="token",
        started_at=datetime.now(UTC),
        machine_boot="boot",
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    (tmp_path / "sandboxes").mkdir()
    (tmp_path / "grants").mkdir()
    store = RecordStore(tmp_path / "sandboxes", tmp_path / "grants")
    yield store
    store.close()


async def test_a_record_comes_back_whole(store: RecordStore) -> None:
    breach = LimitBreach(limit="memory", amount=1, used=2, action="process_killed", message="m")
    record = make_record().but(slot=7, breaches=[breach])
    await store.save(record)
    assert await store.load() == ([record], [])


async def test_the_runtime_knows_a_sandbox_by_its_own_id_or_by_that_of_the_pool_member_it_has_taken_over(
    store: RecordStore,
) -> None:
    own, claimed = make_record(), make_record().but(member=new_id("wrm"))
    assert own.runtime_id == own.id
    assert claimed.runtime_id == claimed.member != claimed.id
    store.runtime_directory(claimed.runtime_id).mkdir(parents=True)
    await store.save(claimed)
    assert await store.load() == ([claimed], [claimed.member])


async def test_a_torn_record_and_a_stray_directory_are_named_not_trusted(store: RecordStore) -> None:
    torn, other = new_id("sbx"), make_record()
    await store.save(make_record(torn))
    (store.directory(torn) / "record.json").write_bytes(b'{"id": "sbx_')
    (store.directory(torn).parent / "stray").mkdir()
    await store.save(other)
    # A record that claims another name must not make the node act on that other sandbox.
    await store.save(make_record())
    liar = new_id("sbx")
    store.directory(liar).mkdir()
    (store.directory(liar) / "record.json").write_text(other.model_dump_json())
    records, swept = await store.load()
    assert other in records
    assert sorted(swept) == sorted([torn, "stray", liar])


async def test_strip_leaves_the_record_alone(store: RecordStore) -> None:
    record = make_record()
    await store.save(record)
    (store.runtime_directory(record.id) / "deep").mkdir(parents=True)
    await store.strip(record.id)
    assert [path.name for path in store.directory(record.id).iterdir()] == ["record.json"]
    await store.remove(record.id)
    await store.remove(record.id)
    await store.strip(record.id)
    assert await store.load() == ([], [])


async def test_a_grant_is_kept_for_root_only_and_forgotten(store: RecordStore, tmp_path: Path) -> None:
    grant = LlmGrant(provider="anthropic", key=SecretStr("sk-1"), placeholder="p")
    await store.save_grant("sbx_a", grant)
    kept = await store.load_grant("sbx_a")
    assert kept is not None and kept.key.get_secret_value() == "sk-1"
    assert stat.S_IMODE((tmp_path / "grants" / "sbx_a.json").stat().st_mode) == 0o600
    assert await store.grant_ids() == ["sbx_a"]
    await store.save_grant("sbx_a", None)
    await store.save_grant("sbx_a", None)
    assert await store.load_grant("sbx_a") is None


def test_figures_that_only_rise_never_fall() -> None:
    entry = Entry(make_record())
    entry.saw(Stats(cpu_seconds=2, memory_bytes=50, memory_peak_bytes=80, disk_bytes=9, pids=1, oom_kills=0))
    entry.saw(Stats(cpu_seconds=0, memory_bytes=0, memory_peak_bytes=0, disk_bytes=0, pids=0, oom_kills=0))
    view = entry.view()
    assert (view.cpu_seconds, view.memory_peak_bytes, view.memory_bytes) == (2, 80, 0)


def test_only_a_running_sandbox_has_an_address_to_connect_to() -> None:
    registry, entry = Registry(), Entry(make_record().but(address="10.0.0.2"))
    registry.add(entry)
    assert registry.address(entry.id) is None
    entry.record = entry.record.but(step="running")
    assert registry.address(entry.id) == "10.0.0.2"
    entry.record = entry.record.but(step="ending", death="x")
    assert registry.address(entry.id) is None
    assert entry.view().state == "dead"


def test_an_address_is_that_of_the_sandbox_which_has_it_now() -> None:
    registry = Registry()
    ended = Entry(make_record().but(id="sbx_a", step="dead", slot=None, address="10.0.0.2"))
    registry.add(ended)
    assert registry.at("10.0.0.2") is None
    following = Entry(make_record().but(id="sbx_b", step="running", slot=0, address="10.0.0.2"))
    registry.add(following)
    assert registry.at("10.0.0.2") is following
