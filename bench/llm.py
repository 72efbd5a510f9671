"""The LLM gateway: what it adds to a model call, to the first byte and to the whole stream.

The model is the scripted one, the gateway the node's own class; each runs in a process of its own on this machine, so
that the figures are those of the gateway and not of the network to a provider.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from typing import Any

import httpx

from harness import Row, report, spread
from hutch.egress.llm import LlmGateway
from hutch.model import LlmGrant

PLACEHOLDER = "hutch-placeholder"
BODY = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 1000,
    "stream": True,
    "messages": [{"role": "user", "content": "Hello. [model chunks=100]"}],
}


async def serve(upstream: str) -> None:
    """Run a gateway that knows one sandbox, at 127.0.0.1; prints its port."""

    async def journal(sandbox: str, kind: str, data: dict[str, Any]) -> None:
        """Durability has its own cost, the node's SQLite; it is not on the way to the first byte."""

    gateway = LlmGateway(journal, base_urls={"anthropic": upstream}, host="127.0.0.1")
    gateway.grant("sbx_bench", "127.0.0.1", LlmGrant(provider="anthropic", key="sk-bench", placeholder=PLACEHOLDER))
    print(await gateway.start(), flush=True)
    await asyncio.Event().wait()


async def call(client: httpx.AsyncClient, url: str) -> tuple[float, float, int]:
    """Milliseconds to the first byte and to the last, and the bytes."""
    begin = time.perf_counter()
    async with client.stream("POST", url, json=BODY, headers={"x-api-key": PLACEHOLDER}) as answer:
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
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    report("llm", rows, arguments.json)


if __name__ == "__main__":
    main()
