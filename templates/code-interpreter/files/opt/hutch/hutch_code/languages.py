"""Languages, their names, and the kernels that run them."""

from __future__ import annotations

from collections.abc import Callable

from hutch_code.bash import BashKernel
from hutch_code.forking import Zygotes
from hutch_code.kernels import Kernel
from hutch_code.node import NodeKernel
from hutch_code.python import PythonKernel

PYTHON, JAVASCRIPT = "python", "javascript"
_ALIASES = {"py": PYTHON, "python3": PYTHON, "js": JAVASCRIPT, "ts": "typescript", "sh": "bash", "shell": "bash"}


class UnknownLanguage(Exception):
    """The message names those that there are."""


class Languages:
    """Makes kernels."""

    def __init__(self) -> None:
        zygotes = Zygotes()
        self._makers: dict[str, Callable[[], Kernel]] = {
            PYTHON: lambda: PythonKernel(zygotes),
            JAVASCRIPT: lambda: NodeKernel(JAVASCRIPT),
            "typescript": lambda: NodeKernel("typescript"),
            "bash": BashKernel,
            "r": _r,
        }

    def find(self, name: str | None) -> tuple[str, Callable[[], Kernel]]:
        """The language by any of its names, and what makes its kernels. Raises `UnknownLanguage`."""
        language = (name or PYTHON).strip().lower()
        language = _ALIASES.get(language, language)
        if language not in self._makers:
            known = ", ".join(self._makers)
            raise UnknownLanguage(f"there is no kernel for {language[:64]!r}; there are: {known}")
        return language, self._makers[language]


def _r() -> Kernel:
    from hutch_code.r import RKernel  # with what it takes, and Python does not

    return RKernel()
