"""Root file systems: from a recipe to one layer of files."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

from hutch.images import carrying
from hutch.images.command import PRIVATE, run
from hutch.images.events import Steps
from hutch.images.host import BUILD_DIR, DebianSources, build_environment, build_files
from hutch.images.layers import Stack
from hutch.model import Recipe

_DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)
"""Kept in the image as well: packages installed in a sandbox leave out the same."""

# No daemon starts by itself when its package is installed; and a login shell keeps the PATH that it is given.
_BARE = """
set -eu
printf '%s\\n' {sources} >/etc/apt/sources.list
printf '%s\\n' {dpkg} >/etc/dpkg/dpkg.cfg.d/hutch
printf 'Acquire::Languages "none";\\n' >/etc/apt/apt.conf.d/90hutch
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
sed -i '/^if .*id -u/,/^export PATH/d' /etc/profile
useradd --create-home --uid 1000 --shell /bin/bash user
if [ -d /etc/sudoers.d ]; then
    printf 'user ALL=(ALL:ALL) NOPASSWD:ALL\\n' >/etc/sudoers.d/hutch
    chmod 440 /etc/sudoers.d/hutch
fi
"""

_FINISH = """
set -eu
id {user} >/dev/null
mkdir -p {workdir}
[ {workdir} = / ] || chown {user}: {workdir}
if [ -f /usr/bin/sudo ] && [ ! -L /usr/bin/sudo ]; then
    dpkg-divert --quiet --divert /usr/bin/sudo.setuid --rename /usr/bin/sudo
    ln -s /.hutch/bin/sudo /usr/bin/sudo
fi
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/lock
rm -rf /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/*- /root/.cache /root/.npm /etc/ssh/ssh_host_*
find /var/log -type f -delete
find /tmp /var/tmp -mindepth 1 -delete
mkdir -p /proc /sys /dev /run /tmp /mnt /.hutch
chmod 1777 /tmp /var/tmp
: >/tmp/.hutch
: >/etc/machine-id
"""
"""gVisor does not honour setuid, so the guest does what sudo would. `/tmp/.hutch` keeps /tmp on the
sandbox's disk: over an empty one gVisor puts a file system in memory."""


def step_count(recipe: Recipe) -> int:
    """How many steps `build_layer` tells of."""
    optional = (recipe.base is None or recipe.packages, recipe.pip, recipe.npm, recipe.files)
    return sum(map(bool, optional)) + len(recipe.steps) + 1


async def build_layer(recipe: Recipe, base: tuple[Path, ...], work: Path, sources: DebianSources, steps: Steps) -> Path:
    """Build the layer of `recipe` over its base's layers, in `work`; the layer's directory."""
    layer = work / "layer"
    files = work / "files"
    files.mkdir()
    for name, content in build_files(sources).items():
        (files / name).write_bytes(content)
    stack = Stack((*base, layer), work)
    builder = _Builder(recipe, stack, files, steps)
    if base:
        layer.mkdir(mode=0o755)
        await builder.packages()
    else:
        await _bootstrap(recipe, layer, sources, steps)
        await builder.shell(_bare_script(recipe, sources), "setting up the bare system")
    await builder.pip()
    await builder.npm()
    await builder.carry()
    await builder.steps()
    await builder.finish()
    layer.chmod(0o755)
    return layer


class _Builder:
    """What a recipe asks for, done in one stack."""

    def __init__(self, recipe: Recipe, stack: Stack, files: Path, steps: Steps) -> None:
        self._recipe = recipe
        self._stack = stack
        self._files = files
        self._steps = steps
        self._env = build_environment() | recipe.env

    async def shell(self, command: str, what: str) -> None:
        await self._stack.shell(command, files=self._files, env=self._env, what=what, log=self._steps.log)

    async def packages(self) -> None:
        if names := self._recipe.packages:
            await self._steps.next(f"Debian packages: {', '.join(names)}")
            install = "apt-get install -y --no-install-recommends"
            await self.shell(f"apt-get update -q && {install} {shlex.join(names)}", "installing Debian packages")

    async def pip(self) -> None:
        if names := self._recipe.pip:
            await self._steps.next(f"Python packages: {', '.join(names)}")
            await self.shell(f"python3 -m pip install {shlex.join(names)}", "installing Python packages")

    async def npm(self) -> None:
        if names := self._recipe.npm:
            await self._steps.next(f"npm packages: {', '.join(names)}")
            scripts = ",".join(_npm_name(name) for name in names)
            command = ["npm", "install", "--global", "--prefix=/usr/local", f"--allow-scripts={scripts}", *names]
            await self.shell(shlex.join(command), "installing npm packages")

    async def carry(self) -> None:
        if folder := self._recipe.files:
            await self._steps.next("The recipe's files")
            archive = self._files / "files.tar"
            await asyncio.to_thread(carrying.pack, Path(folder), archive)
            await self.shell(
                carrying.unpack_command(f"{BUILD_DIR}/files.tar"), f"the files of template {self._recipe.name!r}"
            )
            archive.unlink()

    async def steps(self) -> None:
        for number, command in enumerate(self._recipe.steps, 1):
            await self._steps.next(command.strip().splitlines()[0][:100])
            await self.shell(f"set -e\n{command}", f"step {number} of template {self._recipe.name!r}")

    async def finish(self) -> None:
        await self._steps.next("Cleaning up")
        names = {"user": shlex.quote(self._recipe.user), "workdir": shlex.quote(self._recipe.workdir)}
        await self.shell(_FINISH.format(**names), f"finishing template {self._recipe.name!r}")


async def _bootstrap(recipe: Recipe, layer: Path, sources: DebianSources, steps: Steps) -> None:
    await steps.next(f"Debian {recipe.suite} with {len(recipe.packages)} packages")
    await run(
        [
            *(*PRIVATE, "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"),
            *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
            *(f"--aptopt={option}" for option in sources.apt_options),
            *('--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
            f"--include={','.join(['passwd', *recipe.packages])}",
            *(recipe.suite, str(layer), *sources.lines(recipe.suite)),
        ],
        what="installing Debian",
        log=steps.log,
    )


def _bare_script(recipe: Recipe, sources: DebianSources) -> str:
    return _BARE.format(sources=shlex.join(sources.lines(recipe.suite, public=True)), dpkg=shlex.join(_DPKG_OPTIONS))


def _npm_name(spec: str) -> str:
    """`@scope/name@1.2` -> `@scope/name`."""
    return spec[0] + spec[1:].partition("@")[0]
