"""Import asyncio without the modules that it imports but the guest never needs.

Every millisecond here is one of every cold boot, and inside gVisor it counts several times. The deferred modules are
the real ones, loaded at the first use of anything in them; only what asyncio looks at while it is imported is given.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType


class _Deferred(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


class _DeferredLogger:
    """Stands for a logger until something is logged."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        return getattr(import_module("logging").getLogger(self._name), name)


def _extract_stack(*arguments: object) -> object:
    return import_module("traceback").extract_stack(*arguments)


_GIVEN: dict[str, dict[str, object]] = {
    "inspect": {},
    "linecache": {},
    "logging": {"DEBUG": 10, "getLogger": _DeferredLogger},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "traceback": {"extract_stack": _extract_stack},
}


def import_asyncio() -> None:
    """Import it. Afterwards everybody else who imports one of the modules gets it as usual."""
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # asyncio does without when it cannot be imported
    deferred = {name: _Deferred(name) for name in _GIVEN if name not in sys.modules}
    for name, module in deferred.items():
        module.__dict__.update(_GIVEN[name])
    sys.modules.update(deferred)
    try:
        import asyncio  # noqa: F401
        import concurrent.futures.thread  # noqa: F401
    finally:
        for name, module in deferred.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
