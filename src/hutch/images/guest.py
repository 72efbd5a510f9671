"""The guest as an image carries it: its own Python below `/.hutch`, and the program, compiled ahead.

The carried Python has its own loader and C library, so that it runs in any image, whatever that image holds:

    /.hutch/lib/           loader and libraries; `python3.11` is a link to the standard library
    /.hutch/bin/python3
    /.hutch/python/        PYTHONHOME: lib/python3.11
    /.hutch/bin/sudo       what /usr/bin/sudo leads to
    /.hutch/app/run        starts hutch_guest.main, with what that imports out of one file, `bundle`
    /.hutch/template.json  the template's defaults
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from functools import cache
from pathlib import Path

from hutch.errors import TemplateBuildFailed
from hutch.images.cache import Cache
from hutch.images.command import PRIVATE, LineSink, run
from hutch.images.host import DebianSources
from hutch.model import Recipe

FORMAT = 1
"""Raise it when the layout below changes: everything is then built anew."""

VERSION = "python3.11"
SUITE = "bookworm"
PACKAGES = (f"{VERSION}-minimal", f"lib{VERSION}-stdlib", "libc6", "libexpat1", "libffi8", "zlib1g")

_TRIPLE = "x86_64-linux-gnu"
_LIBRARIES = (
    *("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("libresolv.so.2", "libz.so.1", "libexpat.so.1", "libffi.so.8"),
)
_UNUSED = (
    *("idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "pydoc_data", "distutils", "venv", "sqlite3", "dbm"),
    *("curses", "msilib", "test", "unittest", "wsgiref", "xmlrpc", "__phello__", "turtle.py", "config-*"),
    *("antigravity.py", "this.py", "doctest.py", "pydoc.py", "pdb.py", "EXTERNALLY-MANAGED"),
)
_UNUSED_EXTENSIONS = (
    *("_bz2", "_lzma", "_curses", "_curses_panel", "_dbm", "_hashlib", "_sqlite3", "_ssl", "_uuid", "_crypt", "nis"),
    *("readline", "ossaudiodev", "audioop", "_ctypes_test", "_test*", "_xxtestfuzz", "_codecs_*", "_multibytecodec"),
    *("xxlimited*", "_lsprof", "_xxsubinterpreters"),
)

_SUDO = """\
#!/bin/sh
exec /.hutch/lib/ld-linux-x86-64.so.2 --library-path /.hutch/lib /.hutch/bin/python3 -I -S -B \\
    /.hutch/app/hutch_guest/sudo/client.py "$@"
"""

_CARRIED = Path(__file__).parent / "carried"


def python_key() -> str:
    """The key of the carried Python in the cache."""
    return hashlib.sha256(json.dumps([FORMAT, SUITE, PACKAGES, _UNUSED, _UNUSED_EXTENSIONS]).encode()).hexdigest()[:32]


def find_python(cache: Cache) -> Path | None:
    """The layer with the carried Python, if it is built."""
    path = cache.python / python_key()
    return path if path.is_dir() else None


async def build_python(cache: Cache, sources: DebianSources, log: LineSink) -> Path:
    """The layer with the carried Python, from Debian's packages; built once."""
    key = python_key()
    final = cache.python / key
    async with cache.lock(f"python-{key}"):
        if final.exists():
            return final
        async with cache.temporary(f"python-{key}") as work:
            debian = work / "debian"
            options = [f"--aptopt={option}" for option in sources.apt_options]
            await run(
                [
                    *(*PRIVATE, "mmdebstrap", "--mode=root", "--variant=extract", "--format=directory", *options),
                    *(f"--include={','.join(PACKAGES)}", SUITE, str(debian), *sources.lines(SUITE)),
                ],
                what="fetching the guest's Python",
                log=log,
            )
            layer = work / "layer"
            _lay_out(debian, layer / ".hutch")
            await _compile(layer, "python", log)
            layer.rename(final)
    return final


async def build_app(layer: Path, python: Path, recipe: Recipe, log: LineSink) -> None:
    """Write the guest program and the template's defaults into `layer`."""
    app = layer / ".hutch" / "app"
    shutil.copytree(source(), app / "hutch_guest", ignore=shutil.ignore_patterns("__pycache__"))
    if not digest().startswith(_digest_of(app / "hutch_guest")):
        raise TemplateBuildFailed(
            "the guest program has changed since this process was started",
            hint="Hutch was upgraded meanwhile: restart it (`hutch down --keep && hutch up -d`), then build again.",
        )
    shutil.copy(_CARRIED / "run.py", app / "run.py")
    sudo = layer / ".hutch/bin/sudo"
    sudo.parent.mkdir()
    sudo.write_text(_SUDO)
    sudo.chmod(0o755)
    (layer / ".hutch" / "template.json").write_text(json.dumps(defaults(recipe)))
    await _compile(layer, "app", log, python)
    bundle = [str(_CARRIED / "bundle.py"), str(python), str(layer)]
    await run([*_interpreter(python), *bundle], what="bundling the guest", log=log)


def defaults(recipe: Recipe) -> dict[str, object]:
    """What `/.hutch/template.json` says: the defaults of everything that runs in the sandbox, and what does from the
    beginning. (Who starts that is the node. Here it makes another image of it, and so another snapshot.)"""
    known: dict[str, object] = {"name": recipe.name, "user": recipe.user, "workdir": recipe.workdir, "env": recipe.env}
    return known | ({"start": recipe.start, "ready": recipe.ready} if recipe.start or recipe.ready else {})


def source() -> Path:
    """The installed source of the guest program."""
    spec = importlib.util.find_spec("hutch_guest")
    if spec is None or spec.origin is None:
        raise TemplateBuildFailed("the guest program (hutch_guest) is not installed beside hutch")
    return Path(spec.origin).parent


@cache
def digest() -> str:
    """The content hash of the guest program as it was when this process first looked: a daemon goes on booting the
    images that it was started with while Hutch is being upgraded on disk."""
    return _digest_of(source()) + _digest_of(_CARRIED)


def _digest_of(package: Path) -> str:
    total = hashlib.sha256(_SUDO.encode())
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(package)}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _lay_out(debian: Path, root: Path) -> None:
    """Take what the guest needs out of unpacked Debian packages."""
    (root / "bin").mkdir(parents=True)
    (root / "lib").mkdir()
    shutil.copy2(debian / "usr/bin" / VERSION, root / "bin/python3")
    for name in _LIBRARIES:
        found = next(path for top in ("usr/lib", "lib") if (path := debian / top / _TRIPLE / name).exists())
        shutil.copy2(found, root / "lib" / name)  # follows the link to the versioned file, inside the unpacked tree
        (root / "lib" / name).chmod(0o755)
    stdlib = root / "python/lib" / VERSION
    extensions = shutil.ignore_patterns(*(f"{name}.cpython-*" for name in _UNUSED_EXTENSIONS), "__pycache__")
    unused = shutil.ignore_patterns(*_UNUSED, "test", "tests", "__pycache__")
    shutil.copytree(
        debian / "usr/lib" / VERSION,
        stdlib,
        ignore=lambda path, names: extensions(path, names) if path.endswith("lib-dynload") else unused(path, names),
    )
    (root / "lib" / VERSION).symlink_to(
        f"../python/lib/{VERSION}"
    )  # found from /.hutch/bin, as `-I` ignores PYTHONHOME


async def _compile(layer: Path, part: str, log: LineSink, python: Path | None = None) -> None:
    """Compile with the carried Python itself; the files are never checked against their sources when they load."""
    tree = layer / ".hutch" / part
    await run(
        [
            *(
                *_interpreter(python or layer),
                "-m",
                "compileall",
                "-q",
                "-j",
                "1",
                "--invalidation-mode",
                "unchecked-hash",
            ),
            *("-s", str(layer), "-p", "/", str(tree)),
        ],
        what="compiling the guest",
        log=log,
    )


def _interpreter(python: Path) -> list[str]:
    """The carried Python, run on this machine from where it lies in its layer."""
    home = python / ".hutch"
    loader = [str(home / "lib/ld-linux-x86-64.so.2"), "--library-path", str(home / "lib")]
    return [*loader, str(home / "bin/python3"), "-I", "-S", "-B"]
