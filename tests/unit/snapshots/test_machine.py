"""Any order of everything, against a model that is a dictionary."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from hutch.errors import SnapshotNotFound
from hutch.snapshots import Origin, SnapshotStore
from tests.unit.snapshots.inspect import consistent, settle
from tests.unit.snapshots.make import NOON, Files, admit, content, memory, read, record

T = TypeVar("T")

ORGS = st.sampled_from([None, "org_a", "org_b"])
FILES = st.fixed_dictionaries(
    {
        # Long enough to be cut into pages, and alike enough to share many.
        "pages.img": st.builds(
            lambda first, gap: memory([*range(first, first + 200), *[0] * gap, *range(first, first + 60)]),
            st.integers(1, 300),
            st.integers(0, 3),
        ),
        "checkpoint.img": st.integers(0, 5).map(lambda number: f"state {number}".encode() * 5000),
    }
)


class StoreMachine(RuleBasedStateMachine):
    """Each rule is one call; reads, writes and the background run beside each other as they do in the node."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="hutch-snapshots-"))
        self.model: dict[str, Files] = {}
        self.orgs: dict[str, str | None] = {}
        self.leases: list[tuple[AsyncExitStack, Path, Files]] = []
        self.cache = 0
        self.open()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def open(self) -> None:
        self.store = self.do(SnapshotStore.open(self.root, cache_bytes=self.cache, cpu_share=1, boot="1"))
        assert self.store.lost == []

    def close(self) -> None:
        while self.leases:
            self.end_lease()
        self.do(self.store.close())

    @rule(target=ids, files=FILES, org=ORGS, wait=st.booleans())
    def ingest(self, files: Files, org: str | None, wait: bool) -> str:
        id = self.do(admit(self.store, files, record(len(self.model), org=org)))
        self.model[id], self.orgs[id] = files, org
        if wait:
            self.do(self.store.wait_stored(id))
        return id

    @rule(id=consumes(ids))
    def delete(self, id: str) -> None:
        self.do(self.store.delete(id))
        del self.model[id], self.orgs[id]
        with pytest.raises(SnapshotNotFound):
            self.do(self.store.get(id))

    @rule(id=ids)
    def read(self, id: str) -> None:
        assert self.do(read(self.store, id)) == self.model[id]

    @rule(id=ids)
    def lease(self, id: str) -> None:
        stack = AsyncExitStack()
        directory = self.do(stack.enter_async_context(self.store.materialise(id)))
        self.leases.append((stack, directory, self.model[id]))

    @precondition(lambda self: self.leases)
    @rule()
    def end_lease(self) -> None:
        stack, directory, files = self.leases.pop(0)
        assert content(directory) == files
        self.do(stack.aclose())

    @rule(id=ids)
    def verify(self, id: str) -> None:
        self.do(self.store.verify(id))

    @rule(target=ids, id=ids, org=ORGS)
    def copy(self, id: str, org: str | None) -> str:
        found = self.do(self.store.import_archive(self.store.export(id), Origin(org, "sbx_b", None, NOON), 1 << 30))
        self.model[found.id], self.orgs[found.id] = self.model[id], org
        return found.id

    @rule()
    def collect(self) -> None:
        self.do(self.store.collect())

    @rule(several=st.lists(FILES, min_size=2, max_size=3), target=ids)
    def everything_at_once(self, several: list[Files]) -> Any:
        async def together() -> list[str]:
            new = await asyncio.gather(*(admit(self.store, files) for files in several))
            await asyncio.gather(
                self.store.collect(),
                *(read(self.store, id) for id in new),
                *(read(self.store, id) for id in self.model),
            )
            return new

        new = self.do(together())
        for id, files in zip(new, several, strict=True):
            self.model[id], self.orgs[id] = files, "org_a"
        return multiple(*new)

    @rule()
    def let_the_background_work(self) -> None:
        self.do(settle(self.store))

    @rule(cache=st.sampled_from([0, 3 << 20, 1 << 30]))
    def reopen(self, cache: int) -> None:
        self.close()
        self.cache = cache
        consistent(self.root)
        self.open()

    @invariant()
    def the_list_is_the_model(self) -> None:
        assert {one.id: one.org for one in self.do(self.store.records())} == self.orgs
        for org in (None, "org_a", "org_b"):
            usage = self.do(self.store.usage(org))
            mine = [self.model[id] for id in self.model if self.orgs[id] == org]
            assert (usage.snapshots, usage.logical_bytes) == (
                len(mine),
                sum(len(data) for files in mine for data in files.values()),
            )

    def teardown(self) -> None:
        self.do(settle(self.store))
        for id, files in self.model.items():
            self.do(self.store.verify(id))
            assert self.do(read(self.store, id)) == files
        for id in self.model:
            self.do(self.store.delete(id))
        self.do(self.store.collect())
        assert list((self.root / "packs").iterdir()) == []
        self.close()
        consistent(self.root)
        self.loop.close()
        shutil.rmtree(self.root)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
