"""What E2B's own Python client sees: create, commands, files, many at once, a port.

The client is the one of the development environment (`uv sync`). Beside each figure stands the CPU time that server and
node spent on it, which a shared machine does not blur as it blurs the clock.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import own_hutch, percentile
from hutch.model.e2b import e2b_key

MIB = 1 << 20
SIZE = 256


def daemons(root: Path) -> dict[str, float]:
    """CPU seconds of the server and the node of this Hutch."""
    mark, found = f"HUTCH_RUN_DIR={root / 'run'}".encode(), {}
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            name = next((each for each in ("hutch.api", "hutch.node") if each.encode() in arguments), None)
            if name and mark in (entry / "environ").read_bytes().split(b"\0"):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return found


class Bench:
    """Measures, and keeps what it found."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.figures: list[dict[str, Any]] = []

    def repeat(self, what: str, work: Callable[[], object], times: int) -> None:
        before, values = daemons(self.root), []
        for _ in range(times):
            started = time.perf_counter()
            work()
            values.append((time.perf_counter() - started) * 1000)
        self._add(what, "ms", round(percentile(values, 50), 1), before, times, p95=round(percentile(values, 95), 1))

    def once(self, what: str, unit: str, amount: float, work: Callable[[], object]) -> None:
        before, started = daemons(self.root), time.perf_counter()
        work()
        self._add(what, unit, round(amount / (time.perf_counter() - started), 1), before, 1)

    def _add(self, what: str, unit: str, value: float, before: dict[str, float], times: int, **more: Any) -> None:
        after = daemons(self.root)
        cpu = {name: round((after[name] - before.get(name, 0.0)) / times * 1000, 2) for name in sorted(after)}
        self.figures.append({"what": what, "unit": unit, "value": value, "cpu_ms": cpu, **more})


def measure(bench: Bench) -> None:
    from e2b import Sandbox

    made: list[Any] = []
    bench.repeat("Sandbox.create", lambda: made.append(Sandbox.create(timeout=600)), 10)
    box = made[0]
    box.commands.run("true")
    bench.repeat('commands.run("true")', lambda: box.commands.run("true"), 30)
    for name, size, times in (("1 KiB", 1 << 10, 50), ("1 MiB", MIB, 20)):
        data = os.urandom(size)
        bench.repeat(f"files.write {name}", lambda data=data: box.files.write("f", data), times)
        bench.repeat(f"files.read {name}", lambda: box.files.read("f", format="bytes"), times)
    large = os.urandom(SIZE * MIB)
    bench.once(f"files.write {SIZE} MiB", "MiB/s", SIZE, lambda: box.files.write("large", io.BytesIO(large)))
    read = lambda: sum(map(len, box.files.read("large", format="stream")))  # noqa: E731
    bench.once(f"files.read {SIZE} MiB", "MiB/s", SIZE, read)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        run = lambda _: box.commands.run("true")  # noqa: E731
        bench.once("commands.run, 100 at once", "1/s", 100, lambda: list(pool.map(run, range(100))))
        box.commands.run("mkdir -p /tmp/w; cd /tmp/w; exec python3 -m http.server 8000", background=True, timeout=0)
        request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/", headers=_place(box, 8000))
        _wait(request)
        fetch = lambda _: urllib.request.urlopen(request).read()  # noqa: E731
        bench.once("a port, requests on new connections", "1/s", 200, lambda: list(pool.map(fetch, range(200))))
    for each in made:
        each.kill()


def _place(box: Any, port: int) -> dict[str, str]:
    return {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": str(port)}


def _wait(request: urllib.request.Request) -> None:
    for _ in range(100):
        try:
            return urllib.request.urlopen(request).close()
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server in the sandbox does not answer")


def main() -> None:
    with own_hutch() as root:
        said = json.loads((root / "run" / "api.json").read_text())
        key = e2b_key(os.environ["HUTCH_API_KEY"]) or ""
        os.environ |= {"E2B_API_URL": said["url"], "E2B_SANDBOX_URL": said["gateway"], "E2B_API_KEY": key}
        bench = Bench(root)
        measure(bench)
    if "--json" in sys.argv:
        return print(json.dumps({"figures": bench.figures}))
    for each in bench.figures:
        cpu = ", ".join(f"{name.rpartition('.')[2]} {ms} ms" for name, ms in each["cpu_ms"].items())
        print(f"{each['what']:40} {each['value']:>8} {each['unit']:6} CPU: {cpu}")


if __name__ == "__main__":
    main()
