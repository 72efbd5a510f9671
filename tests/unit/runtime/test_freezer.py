"""Which way a freeze takes: the short one only if the sandbox's own kernel holds no connection, else paused and cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hutch.errors import FreezeFailed
from hutch.network.connections import Connection
from hutch.runtime import freezer
from hutch.runtime.base import Frozen, Handle
from hutch.runtime.freezer import ORIGIN, Freezer
from hutch.runtime.runsc import ConnectionInTheWay, Runsc
from tests.unit.runtime.test_manifest import MANIFEST_OF

ADDRESS = MANIFEST_OF.origin.addresses[-1]
OPEN = Connection(1, 3, (ADDRESS, 5000), ("192.0.2.1", 443))


class Steps(Runsc):
    """Notes what is asked of runsc, instead of doing it."""

    def __init__(self) -> None:
        super().__init__("runsc", Path("/nowhere"), "systrap")
        self.steps: list[str] = []
        self.in_the_way = 0
        self.opened: Callable[[], None] = lambda: None

    async def pause(self, id: str, hold: int) -> None:
        self.steps.append("pause")

    async def resume(self, id: str, hold: int) -> None:
        self.steps.append("resume")

    async def checkpoint(self, id: str, image: Path, direct: bool, hold: int) -> None:
        self.steps.append("save")
        self.opened()
        if self.in_the_way:
            self.in_the_way -= 1
            raise ConnectionInTheWay("a connection is being opened")
        (image / "checkpoint.img").write_bytes(b"state")


class Kernels:
    """What the two kernels say of connections: the host's, and (how many it holds, in turn) the sandbox's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
        self.host: list[Connection] = []
        self.sandbox: Iterator[int | None] = iter([])
        self.asked = 0
        self._steps = steps
        monkeypatch.setattr(freezer, "connections_of", lambda address: list(self.host))
        monkeypatch.setattr(freezer, "end_handshakes", lambda address, found: None)
        monkeypatch.setattr(freezer, "established", self._count)
        monkeypatch.setattr(freezer, "cut_connections", self._cut)

    async def _count(self, control: Path) -> int | None:
        self.asked += 1
        return next(self.sandbox)

    async def _cut(self, control: Path) -> None:
        self._steps.append("cut")


@pytest.fixture
def runsc() -> Steps:
    return Steps()


@pytest.fixture
def kernels(runsc: Steps, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(freezer, "_HEARD_WITHIN", 60)
    return Kernels(monkeypatch, runsc.steps)


async def freeze(runsc: Steps, tmp_path: Path, keep_running: bool) -> Frozen:
    box = tmp_path / "box"
    box.mkdir()
    (box / ORIGIN).write_text(MANIFEST_OF.origin.model_dump_json())
    freezing, frozen = await Freezer(runsc).freeze(
        Handle(id="sbx", pid=1, directory=box), tmp_path / "snap", keep_running
    )
    freezing.end()
    return frozen


async def test_the_short_way_waits_until_the_sandbox_has_heard_of_every_end(
    runsc: Steps, kernels: Kernels, tmp_path: Path
) -> None:
    kernels.sandbox = iter([3, 1, 0])
    await freeze(runsc, tmp_path, keep_running=True)
    assert (runsc.steps, kernels.asked) == (["save"], 3)


@pytest.mark.parametrize("said", [1, None])
async def test_connections_that_do_not_end_or_cannot_be_counted_are_cut_while_all_stands_still(
    runsc: Steps, kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int | None
) -> None:
    monkeypatch.setattr(freezer, "_HEARD_WITHIN", 0.05)
    kernels.sandbox = iter([said] * 1000)
    await freeze(runsc, tmp_path, keep_running=True)
    assert runsc.steps == ["pause", "cut", "save", "resume"]


async def test_a_connection_that_the_host_knows_of_is_not_waited_for(
    runsc: Steps, kernels: Kernels, tmp_path: Path
) -> None:
    kernels.host = [OPEN]
    await freeze(runsc, tmp_path, keep_running=True)
    assert (runsc.steps, kernels.asked) == (["pause", "cut", "save", "resume"], 0)


async def test_one_opened_during_the_save_makes_it_void(runsc: Steps, kernels: Kernels, tmp_path: Path) -> None:
    kernels.sandbox = iter([0, 1])
    runsc.opened = lambda: kernels.host.append(OPEN)
    await freeze(runsc, tmp_path, keep_running=True)
    assert runsc.steps == ["save", "pause", "cut", "save", "resume"]


async def test_one_opened_and_closed_during_the_save_makes_it_void(
    runsc: Steps, kernels: Kernels, tmp_path: Path
) -> None:
    kernels.sandbox = iter([0, 0])
    runsc.opened = lambda: kernels.host.append(Connection(2, 8, OPEN.source, OPEN.target))
    await freeze(runsc, tmp_path, keep_running=True)
    assert runsc.steps == ["save", "pause", "save", "resume"]


@pytest.mark.parametrize(("held", "steps"), [(0, ["pause", "save"]), (2, ["pause", "cut", "save"])])
async def test_for_a_pause_only_what_the_paused_kernel_says_counts(
    runsc: Steps, kernels: Kernels, tmp_path: Path, held: int, steps: list[str]
) -> None:
    kernels.sandbox = iter([held])
    await freeze(runsc, tmp_path, keep_running=False)
    assert runsc.steps == steps


async def test_a_save_that_a_handshake_spoils_is_made_again_until_it_is_over(
    runsc: Steps, kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "_RETRY_PAUSES", (0.001, 0.002))
    runsc.in_the_way, kernels.sandbox = 8, iter([0] * 9)
    await freeze(runsc, tmp_path, keep_running=False)
    assert runsc.steps == ["pause", *["save"] * 9]


async def test_waiting_for_the_end_of_connections_is_no_time_in_which_nothing_runs(
    runsc: Steps, kernels: Kernels, tmp_path: Path
) -> None:
    kernels.sandbox = iter([1] * 20 + [0])
    begun = time.monotonic()
    frozen = await freeze(runsc, tmp_path, keep_running=True)
    waited = (time.monotonic() - begun) * 1000
    assert runsc.steps == ["save"] and frozen.stopped_ms + 15 * freezer._LOOK_AGAIN * 1000 < waited


async def test_a_freeze_that_is_given_up_lets_the_sandbox_go_on(
    runsc: Steps, kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "_PATIENCE", 0.1)
    runsc.in_the_way, kernels.sandbox = 100, iter([0] * 100)
    with pytest.raises(FreezeFailed, match="being opened"):
        await freeze(runsc, tmp_path, keep_running=False)
    assert runsc.steps[-1] == "resume" and [each.name for each in tmp_path.iterdir()] == ["box"]
