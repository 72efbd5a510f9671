"""JavaScript and TypeScript, by Node."""

from __future__ import annotations

import json
from pathlib import Path

from hutch_code import results
from hutch_code.kernels import Event, Surroundings
from hutch_code.pipes import PipeKernel
from hutch_code.processes import Process, spawn

_PROGRAM = Path(__file__).with_name("node_kernel.mjs")


class NodeKernel(PipeKernel):
    """One of the two languages; the program knows both."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._language = language

    async def launch(self, cwd: str, control: int, out: int, err: int) -> Process:
        command = ["node", "--no-warnings", "--experimental-import-meta-resolve", str(_PROGRAM), str(control)]
        return await spawn(command, cwd, out=out, err=err, keep=(control,))

    def request(self, code: str, around: Surroundings) -> bytes:
        known = {"code": code, "language": self._language, "sandbox": around.sandbox, "env": around.env}
        return json.dumps(known).encode()

    def answer(self, line: bytes) -> list[Event]:
        return [results.read(line)]
