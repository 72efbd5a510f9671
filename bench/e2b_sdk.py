"""What E2B's own Python client sees: create, commands, files, many at once, code, a port at a steady rate. Each call
beside its floor: the same on a plain process of this machine.

The client is the one of the development environment (`uv sync`); `run_code` is measured where `e2b-code-interpreter` is
installed beside it and the template is built. Beside each figure stands the CPU time that server and node spent on it,
which a shared machine does not blur as it blurs the clock, and the most memory that they had.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from floor import FILES, floor
from harness import machine, own_hutch, spread
from hutch.model.e2b import e2b_key
from steady import steady

MIB = 1 << 20
PORT = 8000
FLOOR_URL = f"http://127.0.0.1:{PORT}"
SERVER = """
import asyncio
class One(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok" * data.count(b"\\r\\n\\r\\n"))
async def main():
    await (await asyncio.get_running_loop().create_server(One, "0.0.0.0", 8000)).serve_forever()
asyncio.run(main())
"""


class Daemons:
    """Server and node of a Hutch: their CPU time, and their memory while something is measured."""

    def __init__(self, root: Path | None) -> None:
        self._pids = dict(_find(root)) if root is not None else {}
        self.peak: dict[str, float] = {}

    def cpu(self) -> dict[str, float]:
        """Seconds so far."""
        found = {}
        for name, pid in self._pids.items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the most memory that each has meanwhile, beyond what it has now, in MiB."""
        before, over = self._memory(), threading.Event()
        self.peak = dict.fromkeys(before, 0.0)

        def look() -> None:
            while not over.wait(0.05):
                for name, now in self._memory().items():
                    self.peak[name] = round(max(self.peak[name], now - before[name]), 1)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _memory(self) -> dict[str, float]:
        page = os.sysconf("SC_PAGE_SIZE") / MIB
        return {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for name, pid in self._pids.items()}


def _find(root: Path) -> Iterator[tuple[str, int]]:
    mark = f"HUTCH_RUN_DIR={root / 'run'}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            module = next((each for each in ("hutch.api", "hutch.node") if each.encode() in arguments), None)
            if module and mark in (entry / "environ").read_bytes().split(b"\0"):
                yield {"hutch.api": "server", "hutch.node": "node"}[module], int(entry.name)


class Bench:
    """Measures, and keeps what it found."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self.figures: dict[str, dict[str, Any]] = {}

    def repeat(self, what: str, work: Callable[[], object], times: int) -> None:
        """Milliseconds of one call."""
        before, values = self._daemons.cpu(), []
        for _ in range(times):
            started = time.perf_counter()
            work()
            values.append((time.perf_counter() - started) * 1000)
        self.add(what, "ms", spread(values), before, times)

    def rate(self, what: str, unit: str, amount: float, work: Callable[[], object], per: float = 1.0) -> None:
        """So much in the time that it takes, and the CPU time of `per` of it."""
        before, started = self._daemons.cpu(), time.perf_counter()
        with self._daemons.watched():
            work()
        value = round(amount / (time.perf_counter() - started), 1)
        self.add(what, unit, value, before, amount / per, memory_grew_mib=self._daemons.peak)

    def add(self, what: str, unit: str, value: object, before: dict[str, float], calls: float, **more: Any) -> None:
        """One figure; `calls` made it."""
        after = self._daemons.cpu()
        cpu = {name: round((after[name] - before[name]) / calls * 1000, 2) for name in after}
        self.figures[what] = {"what": what, "unit": unit, "value": value, "cpu_ms": cpu, **more}

    def cpu(self) -> dict[str, float]:
        """Of the daemons, so far."""
        return self._daemons.cpu()


def measure(bench: Bench, options: argparse.Namespace, url: str) -> None:
    """All of it, at one Hutch or at the floor."""
    from e2b import Sandbox

    made: list[Any] = []

    def create() -> None:
        made.append(Sandbox.create(timeout=900))

    create()
    box = made[0]
    try:
        box.commands.run("true")
        one_by_one(bench, box, create)
        large_files(bench, box, options.mib)
        at_once(bench, box, made, options.sandboxes)
        if url != FLOOR_URL:
            run_code(bench)
        while len(made) > 1:  # also one that does nothing takes CPU time, of the node and by itself
            made.pop().kill()
        port(bench, box, url, options)
    finally:
        for each in made:
            each.kill()


def one_by_one(bench: Bench, box: Any, create: Callable[[], None]) -> None:
    creates(bench, create)
    bench.repeat('commands.run("true")', lambda: box.commands.run("true"), 30)
    for name, size, times in (("1 KiB", 1 << 10, 50), ("1 MiB", MIB, 20)):
        data = os.urandom(size)
        bench.repeat(f"files.write {name}", lambda data=data: box.files.write(f"{FILES}/f", data), times)
        bench.repeat(f"files.read {name}", lambda: box.files.read(f"{FILES}/f", format="bytes"), times)


def creates(bench: Bench, create: Callable[[], None]) -> None:
    """Creates with a pause between them, in which the warm pool fills again."""
    values, before = [], bench.cpu()
    for _ in range(10):
        time.sleep(2.0)
        started = time.perf_counter()
        create()
        values.append((time.perf_counter() - started) * 1000)
    bench.add("Sandbox.create", "ms", spread(values), before, 10)


def large_files(bench: Bench, box: Any, mib: int) -> None:
    data = os.urandom(MIB) * mib
    bench.rate(
        f"files.write {mib} MiB", "MiB/s", mib, lambda: box.files.write(f"{FILES}/large", io.BytesIO(data)), per=1024
    )

    def read() -> None:
        assert sum(map(len, box.files.read(f"{FILES}/large", format="stream"))) == len(data)

    bench.rate(f"files.read {mib} MiB", "MiB/s", mib, read, per=1024)


def at_once(bench: Bench, box: Any, made: list[Any], sandboxes: int) -> None:
    from e2b import Sandbox

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        run = lambda _: box.commands.run("true")  # noqa: E731
        bench.rate("commands.run, 100 at once", "1/s", 100, lambda: list(pool.map(run, range(100))))

        def create(_: int) -> None:
            made.append(each := Sandbox.create(timeout=900))
            each.commands.run("true")

        work = lambda: list(pool.map(create, range(sandboxes)))  # noqa: E731
        bench.rate(f"create and a command, {sandboxes} at once", "1/s", sandboxes, work)


def run_code(bench: Bench) -> None:
    try:
        interpreter = importlib.import_module("e2b_code_interpreter")
        box = interpreter.Sandbox.create(timeout=300)
    except Exception:  # the client is not installed, or the template is not built
        return
    with box:
        box.run_code("1+1")
        bench.repeat('run_code("1+1")', lambda: box.run_code("1+1"), 30)


def port(bench: Bench, box: Any, url: str, options: argparse.Namespace) -> None:
    box.files.write(f"{FILES}/server.py", SERVER)
    server = box.commands.run(f"exec python3 {FILES}/server.py", background=True, timeout=0)
    try:
        headers = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": str(PORT)}
        before = bench.cpu()
        values = steady(url, headers, options.rate, options.seconds)
        count = options.rate * options.seconds
        bench.add(f"a port, {options.rate} requests a second", "ms", spread(values), before, count)
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--mib", type=int, default=500, help="size of the large file")
    parser.add_argument("--sandboxes", type=int, default=50, help="made at once")
    parser.add_argument("--rate", type=int, default=1000, help="requests a second to a port")
    parser.add_argument("--seconds", type=int, default=10, help="for which they are sent")
    options = parser.parse_args()
    with floor() as environment:
        os.environ |= environment
        below = Bench(Daemons(None))
        measure(below, options, FLOOR_URL)
    with own_hutch() as root:
        said = json.loads((root / "run" / "api.json").read_text())
        key = e2b_key(os.environ["HUTCH_API_KEY"]) or ""
        os.environ |= {"E2B_API_URL": said["url"], "E2B_SANDBOX_URL": said["gateway"], "E2B_API_KEY": key}
        bench = Bench(Daemons(root))
        measure(bench, options, said["gateway"])
    for what, figure in bench.figures.items():
        figure["floor"] = below.figures.get(what, {}).get("value")
    figures = list(bench.figures.values())
    if options.json:
        return print(json.dumps({"benchmark": "e2b_sdk", "machine": machine(), "figures": figures}))
    for each in figures:
        cpu = ", ".join(f"{name} {ms} ms" for name, ms in each["cpu_ms"].items())
        what, value, unit, beside = each["what"], _short(each["value"]), each["unit"], _short(each["floor"])
        grew = "".join(f", {name} +{mib} MiB" for name, mib in each.get("memory_grew_mib", {}).items())
        print(f"{what:36} {value:>20} {unit:6} floor {beside:20} CPU: {cpu}{grew}")


def _short(value: Any) -> str:
    return f"{value['p50']} p95 {value['p95']}" if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    main()
