"""The blocking client is what the generator makes of the asynchronous one, and offers the same."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hutch
from hutch.sdk import _async, _sync

SCRIPT = Path(__file__).parent.parent.parent.parent / "scripts" / "generate_sync.py"


def test_blocking_client_is_current() -> None:
    answer = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def public(cls: type) -> dict[str, list[str]]:
    renamed = {"aclose": "close"}
    return {
        renamed.get(name, name): list(inspect.signature(member).parameters)
        for name, member in inspect.getmembers(cls, callable)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", [name for name in _async.__all__])
def test_both_clients_offer_the_same(name: str) -> None:
    blocking = name.removeprefix("Async")
    assert public(getattr(_async, name)) == public(getattr(_sync, blocking))


@pytest.mark.parametrize("name", _sync.__all__)
def test_nothing_asynchronous_is_left_in_the_blocking_client(name: str) -> None:
    for _, member in inspect.getmembers(getattr(_sync, name)):
        assert not inspect.iscoroutinefunction(member)
        assert not inspect.isasyncgenfunction(member)


def test_every_public_name_can_be_imported() -> None:
    for name in hutch.__all__:
        assert getattr(hutch, name) is not None
    assert sorted(hutch.__all__) == hutch.__all__
    with pytest.raises(AttributeError):
        hutch.Nonsense  # noqa: B018


def test_importing_hutch_does_not_import_the_client() -> None:
    code = "import hutch, sys; assert 'httpx' not in sys.modules and 'hutch.sdk' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_client_does_not_import_the_command_line_of_its_library() -> None:
    code = "import hutch, sys; hutch.Sandbox; assert {'httpx', 'rich'} & sys.modules.keys() == {'httpx'}"
    subprocess.run([sys.executable, "-c", code], check=True)
