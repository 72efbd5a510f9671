"""Makes the bundle of what a guest imports at its start: `python bundle.py PYTHON_LAYER APP_LAYER`.

Runs on the carried Python, so that the code fits it. File names in the code are those inside the sandbox.
"""

from __future__ import annotations

import contextlib
import importlib
import marshal
import sys

STARTS_WITH = ("hutch_guest.main", "hutch_guest.disk", "hutch_guest.server", "hutch_guest.sudo.server")
PRELOADED = ("hutch_guest.api.limit", "hutch_guest.api.processes", "hutch_guest.api.system")


def collect(layers: list[str]) -> dict[str, tuple[bytes, str, bool]]:
    """Import as the guest does, and take the sources of all that has come in by it."""
    before = set(sys.modules)
    sys.modules["ssl"] = None  # type: ignore[assignment]  # as in hutch_guest.main
    for name in (*STARTS_WITH, *PRELOADED):
        with contextlib.suppress(ModuleNotFoundError):  # it is then imported as usual, if it is at all
            importlib.import_module(name)
    found = {}
    for name in sorted(set(sys.modules) - before):
        spec = getattr(sys.modules[name], "__spec__", None)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        with open(spec.origin, "rb") as file:
            source = file.read()
        layer = next(layer for layer in layers if spec.origin.startswith(layer + "/"))
        origin = spec.origin.removeprefix(layer)
        ours = name.startswith("hutch_guest")
        code = compile(source, origin, "exec", dont_inherit=True, optimize=0 if ours else 2)
        found[name] = (marshal.dumps(code), origin, spec.submodule_search_locations is not None)
    return found


if __name__ == "__main__":
    layers = sys.argv[1:]
    app = f"{layers[1]}/.hutch/app"
    sys.path.insert(0, app)
    with open(f"{app}/bundle", "wb") as file:
        marshal.dump(collect(layers), file)
