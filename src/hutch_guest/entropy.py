"""Fresh randomness for the sandbox's kernel, after a thaw.

gVisor's `/dev/urandom` and `getrandom` draw from the host at every call: two forks never share a number of theirs,
whatever is done here. On a kernel with a pool of its own (`qemu`) this is what sets forks apart. What a process has
drawn before the freeze and keeps in its memory (the state of Python's `random`, an OpenSSL generator, a nonce) is the
same in all forks; nobody but the process can change that.
"""

from __future__ import annotations

import fcntl
import struct

_RNDADDENTROPY = 0x40085203


def mix(data: bytes) -> list[str]:
    """Mix into the kernel's pool; the ways that worked: `write` (mixed in, not counted), `ioctl` (and counted)."""
    if not data:
        return []
    done = []
    try:
        with open("/dev/urandom", "wb", buffering=0) as pool:
            pool.write(data)
            done.append("write")
            fcntl.ioctl(pool, _RNDADDENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
            done.append("ioctl")
    except OSError:
        return done
    return done
