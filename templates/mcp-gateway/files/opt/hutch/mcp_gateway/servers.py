"""What a configuration asks for: which servers, of which package or repository, started how."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).with_name("catalogue.toml")
PACKAGES = Path("/opt/mcp-servers")
"""Where a server of the catalogue is installed, in a folder of its name."""
REPOSITORIES = Path("/home/user/mcp-servers")
_REPOSITORY = re.compile(r"github/([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)")
_SPELT = {"run_cmd": "runCmd", "install_cmd": "installCmd"}
"""As Python's type of them has it, and as all others write it."""
_OPTION = re.compile(r"\{(\w+)\}")


class BadConfig(Exception):
    """The configuration is wrong: the message says what, and what would be right."""


@dataclass(frozen=True)
class Server:
    """One, ready to be installed and started."""

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    npm: str | None = None
    pypi: str | None = None
    repository: str | None = None
    """A URL to clone."""
    install: str | None = None
    """A shell command, run in the repository once it is there."""

    @property
    def directory(self) -> Path:
        """Where it is installed: a repository's is also where it runs."""
        return REPOSITORIES / self.name.removeprefix("github/") if self.repository else PACKAGES / self.name


def servers_of(config: object) -> list[Server]:
    """All of them. Raises `BadConfig`."""
    if not isinstance(config, dict) or not config:
        raise BadConfig("the configuration is no object with servers in it")
    return [_repository(name, options) if "/" in name else _named(name, options) for name, options in config.items()]


def package_of(name: str) -> Server:
    """One of the catalogue, to be installed and not started. Raises `BadConfig`."""
    entry = _entry(name)
    return Server(name, [], npm=entry.get("npm"), pypi=entry.get("pypi"))


def _named(name: str, options: object) -> Server:
    env, args = _filled(name, _entry(name), options)
    return replace(package_of(name), command=[str(_program(name, _entry(name))), *args], env=env)


def _entry(name: str) -> dict[str, Any]:
    entry = _catalogue().get(name)
    if entry is None:
        raise BadConfig(
            f"there is no MCP server {name!r} here. There are: {', '.join(sorted(_catalogue()))}; "
            'any other with "github/OWNER/REPOSITORY": {"runCmd": ...}'
        )
    return entry


def _repository(name: str, options: object) -> Server:
    found = _REPOSITORY.fullmatch(name)
    if found is None or {".", ".."} & set(found.groups()):
        raise BadConfig(f"{name!r}: a server of your own is named github/OWNER/REPOSITORY")
    if not isinstance(options, dict):
        raise BadConfig(f'{name}: is no object: {{"runCmd": ..., "installCmd"?: ..., "envs"?: ...}}')
    said = {_SPELT.get(str(key), str(key)): value for key, value in options.items()}
    run, install, env = said.pop("runCmd", None), said.pop("installCmd", None), said.pop("envs", None) or {}
    if not isinstance(run, str) or not run or not isinstance(install, str | None):
        raise BadConfig(f"{name}: `runCmd` has to be a command, and `installCmd` one or nothing")
    if said or not isinstance(env, dict):
        wrong = ", ".join(said) or repr(env)
        raise BadConfig(f"{name}: knows `runCmd`, `installCmd` and `envs` (an object), not {wrong}")
    owner, repository = found.groups()
    return Server(
        name,
        ["/bin/bash", "-l", "-c", run],
        {key: _text(value) for key, value in env.items()},
        repository=f"https://github.com/{owner}/{repository}",
        install=install,
    )


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    return tomllib.loads(CATALOGUE.read_text())


def _program(name: str, entry: dict[str, Any]) -> Path:
    folder = "node_modules/.bin" if "npm" in entry else "bin"
    return PACKAGES / name / folder / str(entry["program"])


def _filled(name: str, entry: dict[str, Any], options: object) -> tuple[dict[str, str], list[str]]:
    """The variables and arguments that come of the options."""
    if not isinstance(options, dict):
        raise BadConfig(f"{name}: its options are no object")
    variables: dict[str, str] = entry.get("env", {})
    arguments: list[str] = entry.get("args", [])
    needed = {each for each in variables.values() if not each.endswith("?")} | set(_OPTION.findall(" ".join(arguments)))
    known = needed | {each.removesuffix("?") for each in variables.values()}
    if wrong := (set(options) - known - set(entry.get("ignored", []))) or needed - set(options):
        takes = f"takes {', '.join(sorted(known))}" if known else "has no options"
        raise BadConfig(
            f"{name}: {takes}; {', '.join(sorted(wrong))} {'is missing' if wrong <= needed else 'is not known'}"
        )
    env = {
        variable: _text(options[option.removesuffix("?")])
        for variable, option in variables.items()
        if option.removesuffix("?") in options
    }
    return env, [filled for each in arguments for filled in _argument(each, options)]


def _argument(argument: str, options: dict[str, Any]) -> list[str]:
    option = _OPTION.fullmatch(argument)
    if option is None:
        return [argument]
    value = options[option.group(1)]
    return [_text(each) for each in value] if isinstance(value, list) else [_text(value)]


def _text(value: object) -> str:
    """As a variable or an argument has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
