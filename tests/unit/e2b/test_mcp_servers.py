"""What a configuration of the MCP gateway asks for. (The gateway itself: tests/sdks/mcp.)"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "templates/mcp-gateway/files/opt/hutch/mcp_gateway"


def _load() -> Any:
    """By its file: in the image it is nobody's package."""
    spec = importlib.util.spec_from_file_location("mcp_gateway_servers", PROGRAM / "servers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


servers = _load()


def test_packages_of_the_catalogue() -> None:
    brave, files = servers.servers_of({"brave": {"apiKey": "k"}, "filesystem": {"paths": ["/a", "/b c"]}})
    assert brave.env == {"BRAVE_API_KEY": "k"} and brave.npm and brave.pypi is None
    assert brave.command == ["/opt/mcp-servers/brave/node_modules/.bin/brave-search-mcp-server"]
    assert files.command[1:] == ["/a", "/b c"]
    (fetch,) = servers.servers_of({"fetch": {}})
    assert fetch.command == ["/opt/mcp-servers/fetch/bin/mcp-server-fetch"] and fetch.pypi


def test_a_repository_in_both_spellings() -> None:
    config = {"installCmd": "make", "runCmd": "run me", "envs": {"A": 1}}
    spelt = {"install_cmd": "make", "run_cmd": "run me", "envs": {"A": 1}}
    (one,), (other,) = (servers.servers_of({"github/acme/notes": each}) for each in (config, spelt))
    assert one == other
    assert one.repository == "https://github.com/acme/notes" and one.install == "make" and one.env == {"A": "1"}
    assert one.command == ["/bin/bash", "-l", "-c", "run me"]
    assert str(one.directory) == "/home/user/mcp-servers/acme/notes"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ([], "no object"),
        ({}, "no object"),
        ({"nope": {}}, "no MCP server 'nope' here. There are: airtable, brave"),
        ({"brave": {}}, "brave: takes apiKey; apiKey is missing"),
        ({"brave": {"apiKey": "k", "key": "k"}}, "brave: takes apiKey; key is not known"),
        ({"time": {"zone": "UTC"}}, "time: has no options; zone is not known"),
        ({"time": None}, "time: its options are no object"),
        ({"gitlab/acme/notes": {"runCmd": "x"}}, "named github/OWNER/REPOSITORY"),
        ({"github/acme/..": {"runCmd": "x"}}, "named github/OWNER/REPOSITORY"),
        ({"github/acme/notes/more": {"runCmd": "x"}}, "named github/OWNER/REPOSITORY"),
        ({"github/acme/notes": {}}, "`runCmd` has to be a command"),
        ({"github/acme/notes": {"runCmd": "x", "cwd": "/"}}, "not cwd"),
        ({"github/acme/notes": {"runCmd": "x", "envs": ["A"]}}, "`envs` (an object)"),
    ],
)
def test_what_is_wrong_is_named(config: Any, told: str) -> None:
    with pytest.raises(servers.BadConfig) as wrong:
        servers.servers_of(config)
    assert told in str(wrong.value)


def test_the_catalogue_is_whole() -> None:
    """Each entry has one pinned package, and nothing that is not read."""
    for name, entry in tomllib.loads(servers.CATALOGUE.read_text()).items():
        assert set(entry) <= {"npm", "pypi", "program", "args", "env", "ignored"}, name
        assert ("npm" in entry) != ("pypi" in entry) and entry["program"], name
        assert entry.get("npm", "a@1").rpartition("@")[2][0].isdigit() and "==" in entry.get("pypi", "=="), name
