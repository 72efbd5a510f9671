"""Figures of use over time: bounded, of those that run, forgotten with the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from hutch.control.samples import History, Samples
from hutch.errors import GuestUnavailable
from hutch.model import GuestFigures


def figures(used: float) -> GuestFigures:
    return GuestFigures(
        cpu_count=2, cpu_used_pct=used, mem_total=100, mem_used=50, mem_cache=10, disk_used=1, disk_total=2
    )


def test_a_day_is_kept_the_last_half_hour_of_it_in_full() -> None:
    history = History()
    assert list(history) == []
    for number in range(10_000):
        history.add(number * 15.0, figures(number / 2))
    kept = list(history)
    times = [at for at, _ in kept]
    assert times == sorted(set(times)) and len(kept) < 420
    assert times[-120:] == [number * 15.0 for number in range(9880, 10_000)]
    assert times[-1] - times[0] > 80_000 and kept[-1][1] == figures(9999 / 2)


async def test_those_that_run_are_asked_and_those_that_are_gone_forgotten() -> None:
    living = [("sbx_a", "org", "running"), ("sbx_b", "org", "paused"), ("sbx_c", "org", "running")]
    asked: list[tuple[str, dict[str, bool]]] = []

    async def rows() -> list[tuple[str, str, str]]:
        return living

    @asynccontextmanager
    async def of(id: str, org: str, **how: bool) -> AsyncIterator[Any]:
        asked.append((id, how))
        if id == "sbx_c":
            raise GuestUnavailable("it does not answer")

        async def tell() -> GuestFigures:
            return figures(1.0)

        yield SimpleNamespace(figures=tell)

    context = SimpleNamespace(store=SimpleNamespace(e2b=SimpleNamespace(living=rows)))
    samples = Samples(cast(Any, context), cast(Any, SimpleNamespace(of=of)))
    await samples.sweep()
    neither = {"wake": False, "counts": False}  # nobody is woken for a figure, nor kept awake
    assert sorted(asked) == [("sbx_a", neither), ("sbx_c", neither)]
    assert [told for _, told in samples.of("sbx_a")] == [figures(1.0)] and samples.of("sbx_c") == []
    del living[0]
    await samples.sweep()
    assert samples.of("sbx_a") == []
