"""What each kind of step does in the sandbox of its build."""

from __future__ import annotations

import posixpath
import re
from collections.abc import AsyncIterator

from hutch.control.builds.commands import Command, Commands
from hutch.control.builds.log import BuildLog
from hutch.control.builds.spec import Context, Step
from hutch.control.files import Files
from hutch.errors import TemplateBuildFailed
from hutch.model import ExecState

_ROOT = "root"
_GLOB = re.compile(r"[*?\[{]")
_VARIABLE = re.compile(r"\\\$|\$(?:(\w+)|\{(\w+)\})")

# ARCHIVE WORK SOURCE TARGET OWNER MODE. As `COPY` of a Dockerfile: a directory's content goes into the target, links in
# the way of directories are followed, and a target that ends in `/` is a directory.
_COPY = """
set -eu
archive=$1 work=$2 source=$3 target=$4 owner=$5 mode=$6
trap 'chmod -R u+rwX "$work" 2>/dev/null; rm -rf "$work" "$work.tar" "$archive"' EXIT
mkdir -p "$work/files"
tar -xf "$archive" -C "$work/files" --no-same-owner
rm -f "$archive"
entry=$work/files/$source
if [ -L "$entry" ] || [ -f "$entry" ]; then
    case "$target" in */) mkdir -p "$target" ;; *) mkdir -p "$(dirname "$target")" ;; esac
    chown -h "$owner" "$entry"
    [ -z "$mode" ] || [ -L "$entry" ] || chmod "$mode" "$entry"
    mv "$entry" "$target"
elif [ -d "$entry" ]; then
    chown -hR "$owner" "$entry"
    [ -z "$mode" ] || chmod -R "$mode" "$entry"
    if [ ! -e "$target" ]; then mkdir -p "$target" && chown "$owner" "$target"; fi
    tar -cf "$work.tar" -C "$entry" .
    tar -xpf "$work.tar" -C "$target" --keep-directory-symlink --no-overwrite-dir
else
    echo "$source is not in what was sent" >&2
    exit 1
fi
"""

# DIRECTORY USER: made with its parents; what is new of them is the user's.
_WORKDIR = """
set -eu
first= above=$1
while [ ! -d "$above" ]; do first=$above; above=$(dirname "$above"); done
if [ -n "$first" ]; then mkdir -p "$1" && chown -R "$2:" "$first"; fi
cd "$1" && pwd
"""

_USER = 'PATH=$PATH:/usr/sbin:/sbin; id -u "$1" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$1"'
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_MOST_VALUE = 128 << 10
"""Characters of one variable: the kernel gives a program no longer ones."""
_TOO_LONG = f"a variable is longer than {_MOST_VALUE >> 10} Ki characters"
_MOST_ENV = 1 << 20
"""Of all of them, names too."""


class StepFailed(TemplateBuildFailed):
    """A step did not do what it should; the text is for whoever wrote it."""


class Steps:
    """Runs them in one sandbox."""

    def __init__(self, commands: Commands, files: Files, sandbox_id: str, org: str, log: BuildLog) -> None:
        self._commands = commands
        self._files = files
        self._sandbox_id = sandbox_id
        self._org = org
        self._log = log

    async def run(self, step: Step, number: str, context: Context, archive: AsyncIterator[bytes] | None) -> Context:
        """One step, with the context for the next. Raises `StepFailed`, and what the sandbox's end is told by."""
        if step.type == "RUN":
            return await self._run(step, number, context)
        if step.type == "COPY":
            assert archive is not None
            return await self._copy(step, number, context, archive)
        if step.type == "ENV":
            return await self._env(step, context)
        return await (self._workdir if step.type == "WORKDIR" else self._user)(step, context)

    async def _run(self, step: Step, number: str, context: Context) -> Context:
        user = step.args[1] if len(step.args) > 1 and step.args[1] else context.user
        command = Command(shell=step.args[0], user=user, cwd=context.workdir, env=context.env)
        self._check(await self._commands.run(command, number), "\n".join(self._log.tail))
        return context

    async def _copy(self, step: Step, number: str, context: Context, archive: AsyncIterator[bytes]) -> Context:
        source, target, owner, mode = (*step.args, "", "")[:4]
        owner = owner or context.user
        place = f"/tmp/hutch-copy-{number}"  # noqa: S108 - the sandbox's
        await self._files.write(self._sandbox_id, f"{place}.sent", archive, user=_ROOT, mode=0o600, org=self._org)
        target = posixpath.join(context.workdir, target)
        arguments = [f"{place}.sent", place, _plain(source), target, owner if ":" in owner else f"{owner}:", mode]
        await self._script(_COPY, *arguments)
        return context

    async def _env(self, step: Step, context: Context) -> Context:
        env = dict(context.env)
        known: dict[str, str] | None = None
        for name, value in zip(step.args[::2], step.args[1::2], strict=True):
            if not name or "=" in name:
                raise StepFailed(f"{name[:100]!r} is no name for a variable")
            if "$" in value:
                known = known if known is not None else await self._environment(context)
                value = expand(value, known | env)
            env[name] = value
        if any(len(value) > _MOST_VALUE for value in env.values()):
            raise StepFailed(_TOO_LONG)
        if sum(len(name) + len(value) for name, value in env.items()) > _MOST_ENV:
            raise StepFailed(f"all variables together are longer than {_MOST_ENV >> 10} Ki characters")
        return context.model_copy(update={"env": env})

    async def _workdir(self, step: Step, context: Context) -> Context:
        path = posixpath.normpath(posixpath.join(context.workdir, step.args[0]))
        await self._script(_WORKDIR, path, context.user)
        return context.model_copy(update={"workdir": path})

    async def _user(self, step: Step, context: Context) -> Context:
        name = step.args[0]
        if not _NAME.fullmatch(name):
            raise StepFailed(f"{name[:100]!r} is no name for a user")
        await self._script(_USER, name)
        return context.model_copy(update={"user": name})

    async def _environment(self, context: Context) -> dict[str, str]:
        """What a command would see."""
        state, printed = await self._commands.ask(
            Command(argv=["/usr/bin/env", "-0"], user=context.user, env=context.env)
        )
        self._check(state, printed.decode(errors="replace"))
        pairs = (line.partition("=") for line in printed.decode(errors="replace").split("\0"))
        return {name: value for name, _, value in pairs if name}

    async def _script(self, script: str, *arguments: str) -> None:
        argv = ["/bin/sh", "-c", script, "hutch-build", *arguments]
        state, printed = await self._commands.ask(Command(argv=argv, user=_ROOT, cwd="/"))
        self._check(state, printed.decode(errors="replace"))

    def _check(self, state: ExecState, said: str) -> None:
        if state.exit_code == 0:
            return
        why = f"exit code {state.exit_code}"
        if state.breach is not None:
            why += f" ({state.breach.message})"
        text = said.replace("\0", "").strip()[-2000:]
        raise StepFailed(f"{why}: {text}" if text else why)


def expand(value: str, known: dict[str, str]) -> str:
    """With `$NAME` and `${NAME}` as they are known; what is not is nothing. `\\$` is a dollar sign. Raises `StepFailed`
    when that is too long: a few doublings in a row would be all memory that there is."""
    length = len(value)

    def one(match: re.Match[str]) -> str:
        nonlocal length
        name = match[1] or match[2]
        found = known.get(name, "") if name else "$"
        length += len(found) - len(match[0])
        if length > _MOST_VALUE + len(value):
            raise StepFailed(_TOO_LONG)
        return found

    return _VARIABLE.sub(one, value)


def _plain(source: str) -> str:
    """Where in the archive to begin: the client has found what a pattern means, and sent it."""
    parts = source.split("/")
    first = next((number for number, part in enumerate(parts) if _GLOB.search(part)), None)
    if first is not None:
        parts = parts[:first]
    path = posixpath.normpath("/".join(parts) or ".")
    if path.startswith(("/", "../")) or path == "..":
        raise StepFailed(f"{source[:200]!r} leads out of the directory of the build")
    return path
