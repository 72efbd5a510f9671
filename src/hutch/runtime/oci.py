"""The OCI bundle of a gVisor sandbox: what `runsc` is told.

How written files are kept and capped
-------------------------------------
Three things are wanted at once: the root file system is an EROFS image that the sandbox's kernel maps by itself (no
gofer process, its pages shared by all sandboxes); written files lie on the host's disk, not in the sandbox's memory;
and there is a ceiling at which the guest sees ENOSPC. The overlay that `runsc` itself puts over the root can be
backed by a file on the host, but releases up to 2025 give it no size. So the root stays read-only, and the sandbox
gets one bind mount whose annotations say "a tmpfs for this container only, with a size". `runsc` then makes no gofer
for it but a tmpfs in its own kernel, backed by a sparse file in the mount's source directory
(`.gvisor.filestore.<id>`) and held to the size. The guest's first act (`hutch_guest.disk`) is to lay an overlay over
the root with that tmpfs as upper layer and to pivot into it; the old root is then out of reach, `df /` shows the
ceiling, and deleted files give their blocks back to the host at once. The ceiling is enforced by gVisor's kernel, not
by the guest: whatever root in the guest unmounts or remounts, that tmpfs is the only thing there that reaches the
disk. A snapshot holds the pages of that file which are in use beside those of memory, and the tmpfs with its size; a
thaw makes a file of its own in the new sandbox's source directory and fills it from there, so that forks share nothing
that is written. Should gVisor's kernel itself be taken over, the node sees `Stats.disk_bytes` pass the ceiling and
kills the sandbox.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hutch.runtime.base import SandboxSpec

INIT_ARGV = [
    "/.hutch/lib/ld-linux-x86-64.so.2",
    "--library-path",
    "/.hutch/lib",
    "/.hutch/bin/python3",
    "-s",
    "-S",
    "-P",
    "-B",
    "/.hutch/app/run",
]
"""PID 1: the guest on the Python it carries. Not `-I`, which would make Python ignore PYTHONHOME; PID 1's whole
environment is set here, so that nothing is left for `-I` to keep out."""

INIT_ENV = {
    "PYTHONHOME": "/.hutch/python",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}

DISK_MOUNT = "/dev/hutch-disk"
"""Where the capped tmpfs stands until the guest has pivoted. Below /dev, the one place that is always writable then."""

SHM = "/dev/shm"  # noqa: S108  (in the sandbox)

CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
]
"""A whole root for the guest: they are checked by gVisor's kernel and mean nothing to the host's, where the sandbox
runs as nobody without any. No CAP_NET_RAW, which keeps raw sockets from programs that do not mean to have them; who
does makes a user name space and has them, as gVisor asks for the capability there. The firewall judges what is sent."""


def write_bundle(spec: SandboxSpec, bundle: Path, disk: Path) -> None:
    """Write the bundle directory for `spec`; written files will lie in `disk`."""
    (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
    disk.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(_config(spec, bundle / "rootfs", disk)))


def _config(spec: SandboxSpec, rootfs: Path, disk: Path) -> dict[str, Any]:
    capabilities = {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted", "inheritable")}
    environment = {**spec.env, **INIT_ENV, "HUTCH_DISK": DISK_MOUNT}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": INIT_ARGV,
            "env": [f"{key}={value}" for key, value in environment.items()],
            "cwd": "/",
            "capabilities": capabilities,
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 65536, "hard": 1048576},
                # Exact for every user but root. (gVisor's pids controller, which holds for root as well, lets most
                # forks through: at each it looks at one of the task's seven hierarchies, picked at random.)
                {"type": "RLIMIT_NPROC", "soft": spec.resources.pids, "hard": spec.resources.pids},
            ],
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": spec.hostname,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": SHM, "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
            {"destination": DISK_MOUNT, "type": "bind", "source": str(disk), "options": ["rbind", "rw"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "network", "path": f"/run/netns/{spec.slot.namespace}"},
                *({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
            ],
        },
        "annotations": {
            "dev.gvisor.spec.rootfs.source": str(spec.image),
            "dev.gvisor.spec.rootfs.type": "erofs",
            # A value is required, and means nothing for a read-only root.
            "dev.gvisor.spec.rootfs.overlay": "memory",
            "dev.gvisor.spec.mount.disk.source": str(disk),
            "dev.gvisor.spec.mount.disk.type": "tmpfs",
            "dev.gvisor.spec.mount.disk.share": "container",
            "dev.gvisor.spec.mount.disk.options": f"size={spec.resources.disk_mib}m,mode=755",
        },
    }
