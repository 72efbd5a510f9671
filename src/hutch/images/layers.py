"""Layers: a root file system as a stack of directories, put together only inside a private mount namespace.

A derived template keeps just what it adds over its base, and an image is made of its template's layers with the
guest's on top. Nothing is mounted where another process could see it, so nothing stays mounted when a build is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hutch.errors import TemplateBuildFailed
from hutch.images.command import PRIVATE, LineSink, run
from hutch.images.host import BUILD_DIR

NAMESERVER = "169.254.169.253"
"""What a sandbox's /etc/resolv.conf names: the node's own address, which answers those that may ask."""

_MOUNT = """
set -eu
options=$1 target=$2
shift 2
case "$options" in
    bind) mount --bind "$target" "$target" ;;
    *) mount -t overlay -o "$options" overlay "$target" ;;
esac
cd "$target"
"""

_CHROOT = (
    _MOUNT
    + """
files=$1
shift
for name in proc dev run etc tmp; do
    if [ -L "$name" ] || [ ! -d "$name" ]; then echo "/$name is not a directory in the image" >&2; exit 125; fi
done
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do : >dev/$name; mount --bind /dev/$name dev/$name; done
mkdir -m 1777 dev/shm run/lock
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mkdir -m 755 ".$BUILD_DIR"
cp "$files"/* ".$BUILD_DIR/"
rm -f etc/resolv.conf
printf 'nameserver %s\n' "$NAMESERVER" >etc/resolv.conf
mount --bind ".$BUILD_DIR/resolv.conf" etc/resolv.conf
unset BUILD_DIR NAMESERVER
exec chroot . /bin/sh -c "$1"
"""
)

_EXEC = _MOUNT + 'exec "$@"\n'


@dataclass(frozen=True)
class Stack:
    """The layers of a root file system, the lowest first, and where they may be put together."""

    layers: tuple[Path, ...]
    work: Path
    """A directory of this build alone, on the same file system as the top layer."""

    async def shell(self, command: str, *, files: Path, env: dict[str, str], what: str, log: LineSink) -> None:
        """Run a shell command as root inside; what it writes goes to the top layer. `files` appear in `BUILD_DIR`."""
        options, target = self._writable()
        environment = env | {"BUILD_DIR": BUILD_DIR, "NAMESERVER": NAMESERVER}
        argv = [*PRIVATE, "sh", "-c", _CHROOT, "hutch-build", options, str(target), str(files), command]
        await run(argv, what=what, log=log, env=environment)

    async def read(self, argv: Sequence[str], *, what: str, log: LineSink) -> None:
        """Run a program of this machine in the directory where the layers appear as one, read-only."""
        target = self._directory("merged")
        lower = ":".join(_escaped(layer) for layer in reversed(self.layers))
        options = f"ro,lowerdir={lower}"
        await run([*PRIVATE, "sh", "-c", _EXEC, "hutch-build", options, str(target), *argv], what=what, log=log)

    def _writable(self) -> tuple[str, Path]:
        *lower, top = self.layers
        if not lower:
            return "bind", top
        below = ":".join(_escaped(layer) for layer in reversed(lower))
        scratch = self._directory("scratch")
        return f"lowerdir={below},upperdir={_escaped(top)},workdir={_escaped(scratch)}", self._directory("merged")

    def _directory(self, name: str) -> Path:
        path = self.work / name
        path.mkdir(exist_ok=True)
        return path


def _escaped(path: Path) -> str:
    text = str(path)
    if "," in text:
        raise TemplateBuildFailed(f"{text}: the cache directory's path may not have a comma in it")
    return text.replace("\\", "\\\\").replace(":", "\\:")
