"""Python, by IPython's kernel in a process that was forked from the zygote (`python_kernel` is its side)."""

from __future__ import annotations

import json

from hutch_code import results
from hutch_code.forking import Zygotes
from hutch_code.kernels import Event, Surroundings
from hutch_code.pipes import END, PipeKernel
from hutch_code.processes import Process

BEGIN = b"\x1e"
"""Before each line of the kernel's. A line that was cut by an exception of the code's (out of a signal) goes on with
the next one: what stands behind the last of these is whole. (As in JSON text sequences, RFC 7464.)"""


class PythonKernel(PipeKernel):
    """Ends of executions have a number: one that the code's signals have made it say twice ends no other."""

    def __init__(self, zygotes: Zygotes) -> None:
        super().__init__()
        self._zygotes = zygotes
        self._number = 0

    async def launch(self, cwd: str, control: int, out: int, err: int) -> Process:
        return await self._zygotes.fork(cwd, control, out, err)

    def request(self, code: str, around: Surroundings) -> bytes:
        self._number += 1
        known = {"code": code, "generation": around.generation, "sandbox": around.sandbox, "env": around.env}
        return b"%d %s" % (self._number, json.dumps(known).encode())

    def answer(self, line: bytes) -> list[Event]:
        event = results.read(line.rpartition(BEGIN)[2])
        if event["type"] == END["type"] and event.get("number") != self._number:
            return []
        return [event]
