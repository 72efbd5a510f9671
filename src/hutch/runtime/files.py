"""The files of a sandbox of gVisor, in its own directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from hutch.runtime.process import HostProcess

PROCESS = "process.json"
BEGUN = "begun"
"""There while its kernel waits for a snapshot, or is just given one."""
ORIGIN = "origin.json"
"""What it is made of (`Origin`)."""
PID, MEMINFO, RUNSC_LOG, GUEST_LOG, TRACE = "pid", "meminfo", "runsc.log", "guest.log", "trace.json"
_NAMES = (PROCESS, BEGUN, ORIGIN, PID, MEMINFO, RUNSC_LOG, GUEST_LOG, TRACE)


def bundle(directory: Path) -> Path:
    """What `runsc` is told of it."""
    return directory / "bundle"


def disk(directory: Path) -> Path:
    """Where its written files lie."""
    return directory / "disk"


def recorded(directory: Path) -> HostProcess | None:
    """Its kernel, as it was recorded when it started."""
    try:
        return HostProcess.from_dict(json.loads((directory / PROCESS).read_text()))
    except (OSError, ValueError, KeyError):
        return None


def disk_bytes(directory: Path) -> int:
    """Host blocks of the written files, and of the logs, which the guest can make grow as well."""
    paths = [directory / GUEST_LOG, directory / RUNSC_LOG]
    with contextlib.suppress(OSError):
        paths += disk(directory).iterdir()
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def tail(directory: Path) -> str:
    """The last thing that runsc or the guest said, for an error message."""
    for name in (RUNSC_LOG, GUEST_LOG):
        with contextlib.suppress(OSError), open(directory / name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            if lines := file.read().decode(errors="replace").strip().splitlines():
                return _message(lines[-1])
    return ""


def _message(line: str) -> str:
    """runsc logs in JSON; the guest does not."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(line)["msg"])[:1000]
    return line[:1000]


def write_atomically(path: Path, text: str) -> None:
    """All of it, or as before."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def remove(directory: Path) -> None:
    """All of them, but for a snapshot that is being made."""
    for path in (bundle(directory), disk(directory)):
        shutil.rmtree(path, ignore_errors=True)
    for name in _NAMES:
        (directory / name).unlink(missing_ok=True)
