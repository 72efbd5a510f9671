"""Which way a freeze takes: the short one only if the sandbox's own kernel holds no connection, else paused and cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hutch.errors import DiskFull, FreezeFailed
from hutch.network.connections import Connection
from hutch.runtime import freezer
from hutch.runtime.base import Frozen, Handle
from hutch.runtime.files import ORIGIN
from hutch.runtime.freezer import Freezer
from hutch.runtime.kernel import STATE, ConnectionInTheWay, Connections, Kernel
from tests.unit.runtime.test_manifest import MANIFEST_OF

ADDRESS = MANIFEST_OF.origin.addresses[-1]
OPEN = Connection(1, 3, (ADDRESS, 5000), ("192.0.2.1", 443))
NONE = Connections(established=0, open=0, opened=7)
ONE = Connections(established=1, open=1, opened=8)
GONE = Connections(established=0, open=1, opened=8)
"""One that was closed, of which a socket is left."""


class Steps(Kernel):
    """Notes what is asked of a sandbox's kernel, and answers what it is told to, in turn."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.steps: list[str] = []
        self.says: Iterator[Connections | None] = iter([])
        self.asked = self.pauses = self.in_the_way = 0
        self.saving: Callable[[], None] = lambda: None

    async def pause(self, hold: int) -> None:
        self.steps.append("pause")
        self.pauses += 1

    async def resume(self, hold: int) -> None:
        self.steps.append("resume")
        self.pauses -= 1

    async def paused(self) -> bool:
        return self.pauses > 0

    async def save(self, directory: Path, direct: bool) -> None:
        self.steps.append("save")
        self.saving()
        (directory / STATE).open("xb").close()
        if self.in_the_way:
            self.in_the_way -= 1
            raise ConnectionInTheWay("a connection is being opened")

    async def connections(self) -> Connections | None:
        self.asked += 1
        return next(self.says)

    async def cut_connections(self, directory: Path) -> None:
        self.steps.append("cut")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """What this host's kernel knows of connections."""
    known: list[Connection] = []
    monkeypatch.setattr(freezer, "connections_of", lambda address: list(known))
    monkeypatch.setattr(freezer, "end_handshakes", lambda address, found: None)
    return known


@pytest.fixture
def kernel(host: list[Connection], monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setattr(freezer, "_HEARD_WITHIN", 60)
    return Steps()


async def freeze(kernel: Kernel, tmp_path: Path, keep_running: bool) -> Frozen:
    box = tmp_path / "box"
    box.mkdir()
    (box / ORIGIN).write_text(MANIFEST_OF.origin.model_dump_json())
    freezing, frozen = await Freezer(lambda id: kernel).freeze(
        Handle(id="sbx", pid=1, directory=box), tmp_path / "snap", keep_running
    )
    freezing.end()
    return frozen


async def test_the_short_way_waits_until_the_sandbox_has_heard_of_every_end(kernel: Steps, tmp_path: Path) -> None:
    kernel.says = iter([ONE, ONE, NONE, NONE])
    await freeze(kernel, tmp_path, keep_running=True)
    assert (kernel.steps, kernel.asked) == (["save"], 4)


@pytest.mark.parametrize("said", [ONE, GONE, None])
async def test_connections_that_do_not_end_or_cannot_be_counted_are_cut_while_all_stands_still(
    kernel: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Connections | None
) -> None:
    monkeypatch.setattr(freezer, "_HEARD_WITHIN", 0.05)
    kernel.says = iter([said] * 1000)
    await freeze(kernel, tmp_path, keep_running=True)
    assert kernel.steps == ["pause", "cut", "save", "resume"]


@pytest.mark.parametrize(("known", "said"), [([OPEN], ONE), ([], GONE)])
async def test_what_will_not_end_by_itself_is_not_waited_for(
    kernel: Steps, host: list[Connection], tmp_path: Path, known: list[Connection], said: Connections
) -> None:
    host += known
    kernel.says = iter([said, said])
    await freeze(kernel, tmp_path, keep_running=True)
    assert (kernel.steps, kernel.asked) == (["pause", "cut", "save", "resume"], 2)


@pytest.mark.parametrize("after", [ONE, Connections(established=0, open=0, opened=8)])
async def test_one_opened_during_the_save_makes_it_void(kernel: Steps, tmp_path: Path, after: Connections) -> None:
    """Also one that was closed meanwhile."""
    kernel.says = iter([NONE, after, after])
    await freeze(kernel, tmp_path, keep_running=True)
    cut = ["cut"] if after.open else []
    assert kernel.steps == ["save", "pause", *cut, "save", "resume"]


@pytest.mark.parametrize(("held", "steps"), [(NONE, ["pause", "save"]), (GONE, ["pause", "cut", "save"])])
async def test_for_a_pause_only_what_the_paused_kernel_says_counts(
    kernel: Steps, tmp_path: Path, held: Connections, steps: list[str]
) -> None:
    kernel.says = iter([held])
    await freeze(kernel, tmp_path, keep_running=False)
    assert kernel.steps == steps


async def test_a_save_that_a_handshake_spoils_is_made_again_until_it_is_over(
    kernel: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "_RETRY_PAUSES", (0.001, 0.002))
    kernel.in_the_way, kernel.says = 8, iter([NONE] * 9)
    await freeze(kernel, tmp_path, keep_running=False)
    assert kernel.steps == ["pause", "save", *["cut", "save"] * 8]


async def test_waiting_for_the_end_of_connections_is_no_time_in_which_nothing_runs(
    kernel: Steps, tmp_path: Path
) -> None:
    kernel.says = iter([ONE] * 20 + [NONE] * 2)
    begun = time.monotonic()
    frozen = await freeze(kernel, tmp_path, keep_running=True)
    waited = (time.monotonic() - begun) * 1000
    assert kernel.steps == ["save"] and frozen.stopped_ms + 15 * freezer._LOOK_AGAIN * 1000 < waited


async def test_a_freeze_that_is_given_up_lets_the_sandbox_go_on_as_often_as_it_was_stopped(
    kernel: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "_PATIENCE", 0.1)
    kernel.in_the_way, kernel.says = 100, iter([NONE] * 100)
    with pytest.raises(FreezeFailed, match="being opened"):
        await freeze(kernel, tmp_path, keep_running=False)
    assert kernel.steps[-2:] == ["save", "resume"] and [each.name for each in tmp_path.iterdir()] == ["box"]


async def test_a_freeze_that_fails_before_the_pause_does_not_let_go_on_what_runs(kernel: Steps, tmp_path: Path) -> None:
    """The kernel would not survive it."""

    def full() -> None:
        raise OSError(28, "no space left on device")

    kernel.saving, kernel.says = full, iter([NONE] * 2)
    with pytest.raises(DiskFull):
        await freeze(kernel, tmp_path, keep_running=True)
    assert kernel.steps == ["save"]
