"""JavaScript and TypeScript, by Node."""

from __future__ import annotations

import json
from pathlib import Path

from hutch_code import results
from hutch_code.kernels import Event, Surroundings
from hutch_code.pipes import PipeKernel

_PROGRAM = Path(__file__).with_name("node_kernel.mjs")


class NodeKernel(PipeKernel):
    """One of the two languages; the program knows both."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._language = language

    def command(self, fd: int) -> list[str]:
        return ["node", "--no-warnings", "--experimental-import-meta-resolve", str(_PROGRAM), str(fd)]

    def request(self, code: str, around: Surroundings) -> bytes:
        known = {"code": code, "language": self._language, "sandbox": around.sandbox, "env": around.env}
        return json.dumps(known).encode()

    def answer(self, line: bytes) -> list[Event]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("type"), str):
            return [results.error("KernelError", "the kernel said what cannot be read")]
        return [found]
