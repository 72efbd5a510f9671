"""R, by IRkernel."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from hutch_code.jupyter import JupyterKernel
from hutch_code.kernels import Surroundings

_START = "options(jupyter.plot_mimetypes = c('text/plain', 'image/png', 'image/svg+xml')); IRkernel::main()"
_SET = """local({{
    known <- jsonlite::fromJSON(rawToChar(jsonlite::base64_dec("{known}")), simplifyVector = FALSE)
    Sys.unsetenv(as.character(known$gone))
    if (length(known$sandbox)) do.call(Sys.setenv, known$sandbox)
    options(hutch.before = Sys.getenv(names(known$env), NA, names = TRUE))
    if (length(known$env)) do.call(Sys.setenv, known$env)
}})"""
_RESET = """local({
    before <- getOption("hutch.before")
    Sys.unsetenv(names(before)[is.na(before)])
    if (any(!is.na(before))) do.call(Sys.setenv, as.list(before[!is.na(before)]))
})"""


class RKernel(JupyterKernel):
    """Its values are shown, not returned: none is the main one, as with E2B."""

    def __init__(self) -> None:
        super().__init__()
        self._generation: str | None = None
        self._sandbox: dict[str, str] = {}

    def command(self, connection: Path) -> list[str]:
        return ["R", "--slave", "-e", _START, "--args", str(connection)]

    def before(self, around: Surroundings) -> str:
        if around.generation == self._generation and not around.env:
            return ""
        known = {"gone": [*(self._sandbox.keys() - around.sandbox)], "sandbox": around.sandbox, "env": around.env}
        self._generation, self._sandbox = around.generation, around.sandbox
        return _SET.format(known=base64.b64encode(json.dumps(known).encode()).decode())

    def after(self, around: Surroundings) -> str:
        return _RESET if around.env else ""
