"""Running what is checked: a program of the user's, in an environment of the user's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hutch.model.e2b import e2b_key
from tests.machine import Machine
from tests.sdks.environments import python_environment


def user_of(machine: Machine) -> dict[str, str]:
    """The environment of a user who has a key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("E2B_", "HUTCH_"))}
    key = e2b_key(machine.key)
    assert key is not None
    return kept | {"E2B_API_KEY": key}


def run(command: list[str | Path], environment: dict[str, str], directory: Path) -> None:
    """Run it; it must succeed."""
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    print(done.stdout[-20_000:], done.stderr[-4_000:])
    assert done.returncode == 0


def run_checks(
    requirements: Sequence[str], environment: dict[str, str], directory: Path, first: Sequence[str | Path] = ()
) -> None:
    """Run the checks of a directory where these packages are, `first` before the command."""
    command = [
        python_environment(*requirements),
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "--confcutdir",
        ".",
    ]
    options = ["-p", "no:cacheprovider", "-o", "python_files=check_*.py", "--durations=5"]
    run([*first, *command, *options], environment | {"PYTHONDONTWRITEBYTECODE": "1"}, directory)
