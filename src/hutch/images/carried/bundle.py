"""Makes the bundle of what a guest imports at its start: `python bundle.py PYTHON_LAYER APP_LAYER`.

Runs on the carried Python, so that the code fits it. File names in the code are those inside the sandbox.
"""

import sys

BEFORE = frozenset(sys.modules)
"""What every interpreter has: taken before anything is imported, and so in the first lines."""

import marshal  # noqa: E402
import py_compile  # noqa: E402

ENTRY = "hutch_guest.main"
ALSO = ("__future__", "hutch_guest.disk")


def imported() -> list[str]:
    """The names of all that a guest imports at its start, as it does that."""
    # This program's own imports do not count, and must not be found imported already.
    for name in set(sys.modules) - BEFORE - {"__main__"}:
        del sys.modules[name]
    for name in (ENTRY, *ALSO):
        __import__(name)
    from hutch_guest.lean import import_all

    import_all(system=True)
    return sorted(set(sys.modules) - BEFORE)


def collect(layers: list[str]) -> dict[str, tuple[object, str, bool]]:
    """The compiled sources of all those."""
    found: dict[str, tuple[object, str, bool]] = {}
    for name in imported():
        spec = getattr(sys.modules[name], "__spec__", None)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        with open(spec.origin, "rb") as file:
            source = file.read()
        layer = next(layer for layer in layers if spec.origin.startswith(layer + "/"))
        origin = spec.origin.removeprefix(layer)
        ours = name.startswith("hutch_guest")
        code = compile(source, origin, "exec", dont_inherit=True, optimize=0 if ours else 2)
        found[name] = (code, origin, spec.submodule_search_locations is not None)
    return found


if __name__ == "__main__":
    layers = sys.argv[1:]
    app = f"{layers[1]}/.hutch/app"
    py_compile.compile(
        f"{app}/run.py",
        cfile=f"{app}/run",  # Python tells compiled code by its first bytes
        dfile="/.hutch/app/run.py",
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    sys.path.insert(0, app)
    found = marshal.dumps(collect(layers))
    with open(f"{app}/bundle", "wb") as file:
        file.write(found)
