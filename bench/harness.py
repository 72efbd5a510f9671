"""What every benchmark needs: a Hutch of its own in temporary directories, percentiles, and the two kinds of output."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@contextmanager
def own_hutch(**settings: str) -> Iterator[Path]:
    """A Hutch that is started for this benchmark and stopped after it; `HUTCH_URL` and `HUTCH_API_KEY` point to it.

    Yields its root directory. `settings` are `HUTCH_*` variables without the prefix, in lower case.
    """
    root = Path(tempfile.mkdtemp(prefix="hb-", dir="/tmp"))
    values = {
        "data_dir": str(root / "data"),
        "run_dir": str(root / "run"),
        "port": "0",
        "gateway_port": "0",
        "log_level": "warning",
        **settings,
    }
    env = {**os.environ, **{f"HUTCH_{name.upper()}": value for name, value in values.items()}}
    env["XDG_CONFIG_HOME"] = str(root / "config")
    hutch = [sys.executable, "-m", "hutch.cli.main"]
    try:
        subprocess.run([*hutch, "up", "-d"], env=env, check=True, stdout=subprocess.DEVNULL)
        credentials = json.loads((root / "config/hutch/credentials.json").read_text())
        os.environ["HUTCH_DATA_DIR"] = values["data_dir"]  # for what looks at the daemons from outside
        os.environ["HUTCH_URL"], os.environ["HUTCH_API_KEY"] = credentials["url"], credentials["api_key"]
        yield root
    finally:
        subprocess.run([*hutch, "down", "--yes"], env=env, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(root, ignore_errors=True)


def percentile(values: list[float], p: float) -> float:
    """The nearest-rank percentile, `p` in 0..100."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(p / 100 * len(ordered) + 0.5) - 1))]


def spread(values: list[float]) -> dict[str, float]:
    """p50, p95 and the extremes, rounded to two places."""
    figures = {"p50": percentile(values, 50), "p95": percentile(values, 95), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in figures.items()}


def noise() -> float:
    """How much slower than at its best this machine usually computes, just now: 1.0 when it has its cores to itself.
    The median over the minimum of a loop of a few milliseconds."""
    times = []
    for _ in range(100):
        begin = time.perf_counter()
        sum(range(200_000))
        times.append(time.perf_counter() - begin)
    return round(percentile(times, 50) / min(times), 2)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    runsc = subprocess.run(["runsc", "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu_noise": noise(),
        "runsc": runsc.removeprefix("runsc version "),
    }


Row = tuple[str, str, Any]
"""What was measured, its unit, the figure (a number or a `spread`)."""


def report(title: str, rows: list[Row], as_json: bool) -> None:
    """A table for people, or one JSON object for programs."""
    if as_json:
        figures = [{"what": what, "unit": unit, "value": value} for what, unit, value in rows]
        print(json.dumps({"benchmark": title, "machine": machine(), "figures": figures}))
        return
    table = Table(title=title, caption=", ".join(f"{k} {v}" for k, v in machine().items()))
    for column in ("what", "unit", "p50", "p95", "min", "max"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    for what, unit, value in rows:
        figures = [str(value[k]) for k in ("p50", "p95", "min", "max")] if isinstance(value, dict) else [str(value)]
        table.add_row(what, unit, *figures)
    Console().print(table)


def main(
    title: str,
    measure: Callable[[argparse.Namespace], Coroutine[Any, Any, list[Row]]],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    **settings: str,
) -> None:
    """Parse the options, start a Hutch, measure, report."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options(parser)
    arguments = parser.parse_args()
    with own_hutch(**settings):
        rows = asyncio.run(measure(arguments))
    report(title, rows, arguments.json)
