"""Shell code, by one bash that keeps its variables, functions and directory."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from pathlib import Path

from hutch_code import results
from hutch_code.kernels import Event, Surroundings
from hutch_code.pipes import END, PipeKernel
from hutch_code.processes import Process, spawn

_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_PROGRAM = Path(__file__).with_name("bash_kernel.sh")


class BashKernel(PipeKernel):
    """The shell. Code that ends with a status other than 0 ends with an error."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="kernel-"))
        self._sandbox: dict[str, str] = {}
        self._count = 0

    async def launch(self, cwd: str, control: int, out: int, err: int) -> Process:
        command = ["bash", "--noprofile", "--norc", str(_PROGRAM), str(control)]
        return await spawn(command, cwd, out=out, err=err, keep=(control,))

    def request(self, code: str, around: Surroundings) -> bytes:
        sandbox, env = _nameable(around.sandbox), _nameable(around.env)
        before = [f"unset {name}" for name in self._sandbox.keys() - sandbox.keys()]
        before += map(_export, sandbox.items())
        before += (f"hutch_had_{name}=${{{name}+1}} hutch_old_{name}=${{{name}-}}" for name in env)
        before += map(_export, env.items())
        after = [f'[ -n "$hutch_had_{name}" ] && export {name}="$hutch_old_{name}" || unset {name}' for name in env]
        self._sandbox = sandbox
        for name, text in (("before", "\n".join(before)), ("code", code), ("after", "\n".join(after))):
            (self._folder / name).write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
        self._count += 1
        self._add({"type": "number_of_executions", "execution_count": self._count})
        return str(self._folder).encode()

    def answer(self, line: bytes) -> list[Event]:
        if line in (b"ready", b"0"):
            return [END]
        status = line.decode(errors="replace")
        return [results.error("ExitStatus", status, f"the code ended with exit status {status}"), END]

    async def kill(self, reason: str) -> None:
        await super().kill(reason)
        shutil.rmtree(self._folder, ignore_errors=True)


def _nameable(env: dict[str, str]) -> dict[str, str]:
    """Those that a shell can have."""
    return {name: value for name, value in env.items() if _NAME.fullmatch(name)}


def _export(variable: tuple[str, str]) -> str:
    name, value = variable
    return f"export {name}={shlex.quote(value)}"
