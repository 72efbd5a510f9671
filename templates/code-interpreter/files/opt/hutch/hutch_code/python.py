"""Python, by IPython's kernel in a process that was forked from the zygote (`python_kernel` is its side)."""

from __future__ import annotations

import json

from hutch_code import results
from hutch_code.forking import Zygotes
from hutch_code.kernels import Event, Surroundings
from hutch_code.mailbox import Mailbox
from hutch_code.pipes import END, PipeKernel
from hutch_code.processes import Process

BEGIN = b"\x1e"
"""Before each line of the kernel's, and its number. A line that was cut by an exception of the code's (out of a signal)
goes on with the next one: what stands behind the last of these is whole. (As in JSON text sequences, RFC 7464.) A
number that was there already tells of a line that was written again."""


class PythonKernel(PipeKernel):
    """Ends of executions have a number: one that the code's signals have made it say twice ends no other."""

    def __init__(self, zygotes: Zygotes) -> None:
        super().__init__()
        self._zygotes = zygotes
        self._number = 0
        self._heard = 0

    async def launch(self, cwd: str, control: int, out: int, err: int) -> Process:
        self._requests = Mailbox.new()
        try:
            process = await self._zygotes.fork(cwd, control, out, err, self._requests.descriptor)
        except BaseException:
            self._requests.close()
            raise
        process.ended.add_done_callback(lambda _: self._requests.close())
        return process

    def request(self, code: str, around: Surroundings) -> bytes:
        self._number += 1
        known = {"code": code, "generation": around.generation, "sandbox": around.sandbox, "env": around.env}
        self._requests.put(self._number, json.dumps(known).encode())
        return b""

    def answer(self, line: bytes) -> list[Event]:
        number, _, told = line.rpartition(BEGIN)[2].partition(b" ")
        if number.isdigit():
            if int(number) <= self._heard:
                return []
            self._heard = int(number)
        event = results.read(told)
        if event["type"] == END["type"] and event.get("number") != self._number:
            return []
        return [event]
