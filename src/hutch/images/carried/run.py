"""The guest's first file, `/.hutch/app/run`.

Most of a guest's start is imports. What a start imports lies in one file, in code that is ready to run (`bundle.py`
makes it), and is imported without the import system: inside gVisor each look for a file counts, and each of the import
system's locks asks for the time, which is a call to the kernel there. All else is imported as usual, and so is
everything where there is no bundle that this Python can read.
"""

import builtins
import gc
import marshal
import sys
from _frozen_importlib import ModuleSpec  # importlib.machinery would be one more import

APP = "/.hutch/app"

Module = type(sys)
import_as_usual = builtins.__import__


class Bundle:
    """The bundled modules: name -> (code, file, is a package). As a context, it serves imports."""

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                self._modules = marshal.loads(file.read())  # noqa: S302 - part of the image
        except (OSError, ValueError, EOFError, TypeError):
            self._modules = {}

    def __enter__(self) -> None:
        builtins.__import__ = self._import

    def __exit__(self, *error: object) -> None:
        builtins.__import__ = import_as_usual

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):  # type: ignore[no-untyped-def]
        """`builtins.__import__`, which finds everything imported already."""
        full = name
        if level:
            package = globals["__package__"]
            base = package.rsplit(".", level - 1)[0] if level > 1 else package
            full = f"{base}.{name}" if name else base
        self._load(full)
        for part in fromlist or ():
            if f"{full}.{part}" in self._modules:
                self._load(f"{full}.{part}")
        return import_as_usual(name, globals, locals, fromlist, level)

    def _load(self, name: str) -> None:
        if name in sys.modules or name not in self._modules:
            return
        parent, _, tail = name.rpartition(".")
        if parent:
            self._load(parent)
            if name in sys.modules:  # its package has imported it
                return
        code, origin, package = self._modules[name]
        module = sys.modules[name] = Module(name)
        spec = ModuleSpec(name, None, origin=origin, is_package=package)
        if package:
            spec.submodule_search_locations = module.__path__ = [origin.rpartition("/")[0]]
        module.__spec__ = spec
        module.__file__ = origin
        module.__package__ = name if package else parent
        try:
            exec(code, module.__dict__)  # noqa: S102
        except BaseException:
            del sys.modules[name]
            raise
        if parent:
            setattr(sys.modules[parent], tail, sys.modules[name])


if __name__ == "__main__":
    gc.disable()  # nothing of what a start makes is garbage; the server turns it on
    sys.path.insert(0, APP)
    with Bundle(f"{APP}/bundle"):
        from hutch_guest.main import prepare

        run = prepare()
    run()
