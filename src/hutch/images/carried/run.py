"""The guest's first file, `/.hutch/app/run.py`.

Most of a guest's start is imports, and most of an import inside gVisor is looking for the file. So what a start imports
lies in one file, in code that is ready to run (`bundle.py` makes it); all else is imported as usual.
"""

from __future__ import annotations

import marshal
import sys
from _frozen_importlib import ModuleSpec  # importlib.machinery would be one more import
from types import ModuleType

APP = "/.hutch/app"


class Bundle:
    """Finds and loads the bundle's modules: name -> (code, file, is a package)."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._modules: dict[str, tuple[bytes, str, bool]] = marshal.load(file)  # noqa: S302 - part of the image

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The import system asks this first."""
        found = self._modules.get(name)
        if found is None:
            return None
        _, origin, package = found
        spec = ModuleSpec(name, self, origin=origin, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [origin.rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary one."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run its code, which is then not kept."""
        code, _, _ = self._modules.pop(module.__name__)
        exec(marshal.loads(code), module.__dict__)  # noqa: S102, S302


if __name__ == "__main__":
    sys.path.insert(0, APP)
    try:  # noqa: SIM105 - contextlib would be one more import
        sys.meta_path.insert(0, Bundle(f"{APP}/bundle"))
    except (OSError, ValueError, EOFError):
        pass  # slower, but the same
    from hutch_guest.main import main

    main()
