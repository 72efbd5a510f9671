"""Run inside a sandbox: holds generators of random numbers over a freeze, then prints, in JSON, what each of them
draws; then does what docs/freeze.md tells programs to do, and draws again. Inotify says when the generation changes.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import secrets
import ssl
import sys
import time
import uuid

GENERATION = "/run/hutch/generation"
_MOVED_TO = 0x80


def kernels() -> dict[str, str]:
    """What comes from the kernel at every call."""
    return {"urandom": os.urandom(16).hex(), "secrets": secrets.token_hex(16), "uuid4": str(uuid.uuid4())}


def own() -> dict[str, str]:
    """What comes from the memory of the process."""
    return {"random": random.random().hex(), "openssl": ssl.RAND_bytes(16).hex()}


def generation() -> str:
    with open(GENERATION, encoding="ascii") as file:
        return file.read().strip()


def watch() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init()
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.path.dirname(GENERATION).encode(), _MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return descriptor


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    told = watch()
    before = generation()
    kernels(), own()  # all of them are seeded
    started = time.monotonic()
    say(ready=True, generation=before)
    while (after := generation()) == before:
        os.read(told, 4096)
    say(generation=after, slept=time.monotonic() - started, wall=time.time(), **kernels(), **own())
    random.seed()
    ssl.RAND_add(os.urandom(48), 48)
    say(**own())


if __name__ == "__main__":
    main()
