"""Import what the guest starts with, without the modules that this drags along but a start never needs.

Every millisecond here is one of every cold boot, and inside gVisor it counts several times: `typing`, `inspect`,
`logging` and what they import in their turn are half of a plain `import asyncio`. The deferred modules are the real
ones, loaded at the first use of anything in them; only what others look at while they are imported is given.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType


class _Deferred(ModuleType):
    """Stands for a module until something of it is used that is not given."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


class _DeferredLogger:
    """Stands for a logger until something is logged that anybody would see."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def debug(self, *arguments: object, **options: object) -> None:
        """Not shown: the real logger's level is never lowered here."""

    def __getattr__(self, name: str) -> object:
        return getattr(import_module("logging").getLogger(self._name), name)


class _Annotation:
    """Stands for what is only named in annotations."""

    def __getitem__(self, parameters: object) -> _Annotation:
        return self


def _extract_stack(*arguments: object) -> object:
    return import_module("traceback").extract_stack(*arguments)


def _is_coroutine_function(function: object) -> bool:
    """`inspect.iscoroutinefunction` for functions and methods."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)


_GIVEN: dict[str, dict[str, object]] = {
    "inspect": {"iscoroutinefunction": _is_coroutine_function},
    "linecache": {},
    "logging": {"DEBUG": 10, "getLogger": _DeferredLogger},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "traceback": {"extract_stack": _extract_stack},
    "asyncio.sslproto": {},
    "asyncio.staggered": {},
    "asyncio.streams": {},
    "asyncio.subprocess": {},
}
_STARRED = ("asyncio.streams", "asyncio.subprocess")
"""asyncio takes all their names for its own, and means them themselves by another: it gets only that. The guest uses no
other."""
_TYPING: dict[str, object] = {
    "TYPE_CHECKING": False,
    **dict.fromkeys(("Any", "IO", "Optional", "Type"), _Annotation()),
    "Protocol": object,
    "TypeVar": lambda name: _Annotation(),
    "cast": lambda kind, value: value,
    "final": lambda kind: kind,
}
"""Stays deferred for good: most modules that import it do so for annotations, which nobody evaluates."""


def _defer(name: str, given: dict[str, object]) -> _Deferred:
    module = _Deferred(name)
    module.__dict__.update(given)
    if name in _STARRED:
        tail = name.rpartition(".")[2]
        module.__dict__.update({"__all__": (tail,), tail: module})
    sys.modules[name] = module
    return module


def import_all(system: bool) -> None:
    """Import all that serving and the first exec need, and what must work when there is no memory left to import it.
    Afterwards everybody else who imports one of the deferred modules gets it as usual. `system`: for PID 1."""
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # asyncio does without when it cannot be imported
    if "typing" not in sys.modules:
        _defer("typing", _TYPING)
    deferred = {name: _defer(name, given) for name, given in _GIVEN.items() if name not in sys.modules}
    try:
        import asyncio  # noqa: F401
        import concurrent.futures.thread  # noqa: F401

        import hutch_guest.api.limit
        import hutch_guest.api.processes
        import hutch_guest.api.system
        import hutch_guest.server

        if system:
            import hutch_guest.sudo.server  # noqa: F401
    finally:
        for name, module in deferred.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
