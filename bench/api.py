"""The API server: requests per second and latency of what is called most."""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import httpx

from harness import Row, main, spread
from hutch import AsyncSandbox


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=2000, help="requests of each kind")
    parser.add_argument("--clients", type=int, default=16, help="requests under way at once")


async def load(client: httpx.AsyncClient, path: str, requests: int, clients: int) -> tuple[float, list[float]]:
    """Requests per second, and the latency of each in ms."""
    times: list[float] = []
    left = iter(range(requests))

    async def worker() -> None:
        for _ in left:
            begin = time.perf_counter()
            answer = await client.get(path)
            assert answer.status_code == 200, answer.text
            times.append((time.perf_counter() - begin) * 1000)

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(clients)))
    return requests / (time.perf_counter() - begin), times


async def measure(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    headers = {"Authorization": f"Bearer {os.environ['HUTCH_API_KEY']}"}
    async with (
        await AsyncSandbox.create(template="standard") as sandbox,
        httpx.AsyncClient(base_url=os.environ["HUTCH_URL"], headers=headers, timeout=30) as client,
    ):
        paths = [
            ("GET /healthz", "/healthz"),
            ("GET /v1/sandboxes/{id}", f"/v1/sandboxes/{sandbox.id}"),
            ("GET /v1/sandboxes", "/v1/sandboxes"),
            ("GET .../files/stat (through to the guest)", f"/v1/sandboxes/{sandbox.id}/files/stat?path=/etc/hosts"),
        ]
        for name, path in paths:
            await load(client, path, 50, arguments.clients)
            rate, times = await load(client, path, arguments.requests, arguments.clients)
            rows.append((f"{name}: rate, {arguments.clients} clients", "1/s", round(rate)))
            rows.append((f"{name}: latency", "ms", spread(times)))
    return rows


if __name__ == "__main__":
    main("api", measure, options)
