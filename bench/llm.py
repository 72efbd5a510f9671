"""The LLM gateway: what it adds to a model call, to the first byte and to the whole stream; and 200 streams at once.

The model is the scripted one, the gateway the node's own class; each runs in a process of its own on this machine, so
that the figures are those of the gateway and not of the network to a provider.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from harness import Row, report, spread
from hutch.egress.llm.gateway import LlmGateway
from hutch.model import LlmGrant, OrgBudget

PLACEHOLDER = "hutch-placeholder"
BODY = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 1000,
    "stream": True,
    "messages": [{"role": "user", "content": "Hello. [model chunks=100]"}],
}
SANDBOXES = 20
SLOW = BODY | {
    "messages": [{"role": "user", "content": "[model slow=0.05][model chunks=100][model say=" + "word " * 100 + "]"}]
}
"""As a model speaks: twenty pieces a second."""


async def serve(upstream: str) -> None:
    """Run a gateway that knows some sandboxes, of one organisation with a budget; prints its port."""

    async def journal(sandbox: str, kind: str, data: dict[str, Any]) -> None:
        """Durability has its own cost, the node's SQLite; it is not on the way to the first byte."""

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ledger = Path(directory) / "ledger"
        gateway = LlmGateway(journal, base_urls={"anthropic": upstream}, ledger=ledger, host="127.0.0.1")
        gateway.set_budgets({"org_bench": OrgBudget(day_usd=1e6, month_usd=1e6)})
        for number in range(SANDBOXES):
            grant = LlmGrant(
                provider="anthropic", key="sk-bench", placeholder=PLACEHOLDER, org="org_bench", max_usd=1e5
            )
            gateway.grant(f"sbx_{number}", f"127.0.0.{number + 1}", grant)
        print(await gateway.start(), flush=True)
        await asyncio.Event().wait()


async def call(client: httpx.AsyncClient, url: str, body: Any = BODY) -> tuple[float, float, int]:
    """Milliseconds to the first byte and to the last, and the bytes."""
    begin = time.perf_counter()
    async with client.stream("POST", url, json=body, headers={"x-api-key": PLACEHOLDER}) as answer:
        assert answer.status_code == 200, await answer.aread()
        first, size = 0.0, 0
        async for chunk in answer.aiter_raw():
            first = first or (time.perf_counter() - begin) * 1000
            size += len(chunk)
    return first, (time.perf_counter() - begin) * 1000, size


async def rate(client: httpx.AsyncClient, url: str, calls: int, clients: int) -> float:
    """Calls per second with `clients` at once."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await call(client, url)

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(clients)))
    return calls / (time.perf_counter() - begin)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def at_once(url: str, streams: int) -> list[tuple[float, float, int]]:
    """So many slow streams, of several sandboxes."""
    async with AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(
                httpx.AsyncClient(
                    timeout=120,
                    transport=httpx.AsyncHTTPTransport(
                        local_address=f"127.0.0.{number + 1}", limits=httpx.Limits(max_connections=None)
                    ),
                )
            )
            for number in range(SANDBOXES)
        ]
        return await asyncio.gather(*(call(clients[each % SANDBOXES], url, SLOW) for each in range(streams)))


async def crowd(model: str, gateway: str, pid: int, streams: int) -> list[Row]:
    """Many streams at once, straight and through the gateway; all of them whole."""
    direct = await at_once(model, streams)
    before = cpu_seconds(pid)
    through = await at_once(gateway, streams)
    used = cpu_seconds(pid) - before
    assert {size for _, _, size in through} == {size for _, _, size in direct}, "every stream came whole"
    chunks = streams * 100
    return [
        (f"first byte of {streams} streams begun at once, straight", "ms", spread([first for first, _, _ in direct])),
        (f"first byte of {streams} streams begun at once, gateway", "ms", spread([first for first, _, _ in through])),
        (f"length of {streams} streams at once, straight", "ms", spread([whole for _, whole, _ in direct])),
        (f"length of {streams} streams at once, gateway", "ms", spread([whole for _, whole, _ in through])),
        ("CPU of the gateway, per piece of a stream", "µs", round(used / chunks * 1e6)),
    ]


async def measure(model: str, gateway: str, calls: int) -> list[Row]:
    """Direct and through the gateway in turn, so that both meet the same machine."""
    direct, through = [], []
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=64)) as client:
        for url in (model, gateway):
            await rate(client, url, 20, 4)
        for _ in range(calls):
            direct.append(await call(client, model))
            through.append(await call(client, gateway))
        rates = [await rate(client, url, calls, 8) for url in (model, gateway)]
    first, whole = ([b[i] - a[i] for a, b in zip(direct, through, strict=True)] for i in (0, 1))
    return [
        ("first byte, straight to the model", "ms", spread([a for a, _, _ in direct])),
        ("first byte, through the gateway", "ms", spread([a for a, _, _ in through])),
        ("added to the first byte", "ms", spread(first)),
        (
            "added to the whole stream (100 chunks)",
            "ms",
            spread(whole),
        ),
        ("streams per second, straight, 8 at once", "1/s", round(rates[0])),
        ("streams per second, gateway, 8 at once", "1/s", round(rates[1])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="llm")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--calls", type=int, default=200, help="calls on each way")
    parser.add_argument("--streams", type=int, default=200, help="streams at once")
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
        return
    model = subprocess.Popen(
        [sys.executable, "-m", "hutch.demo.scripted_model", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    processes = [model]
    try:
        url = model.stdout.readline().strip()
        gateway = subprocess.Popen([sys.executable, __file__, "--serve", url], stdout=subprocess.PIPE, text=True)
        processes.append(gateway)
        port = gateway.stdout.readline().strip()
        ways = f"{url}/v1/messages", f"http://127.0.0.1:{port}/anthropic/v1/messages"
        rows = asyncio.run(measure(*ways, arguments.calls))
        rows += asyncio.run(crowd(*ways, gateway.pid, arguments.streams))
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    report("llm", rows, arguments.json)


if __name__ == "__main__":
    main()
