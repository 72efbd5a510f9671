"""Every claim of docs/security.md names the tests that show it, and these tests are there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TESTS = ROOT / "tests"
_TEST = re.compile(r"^\s*(?:async )?def test_(\w+)\(|^Test(\w+) = ", re.MULTILINE)


def claims() -> list[tuple[str, str]]:
    """The rows of all tables of claims, as (claim, what shows it)."""
    rows, inside = [], False
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        if line.startswith("| claim |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            claim, shown = line.strip("|").split(" | ", 1)
            rows.append((claim.strip(), shown.strip()))
    return rows


@cache
def known_in(path: Path) -> tuple[str, ...]:
    return tuple(name or other for name, other in _TEST.findall(path.read_text()))


@cache
def known_anywhere() -> tuple[str, ...]:
    return tuple(name for path in TESTS.rglob("test_*.py") for name in known_in(path))


def problems(shown: str) -> list[str]:
    """What is named there and does not exist. A name stands after its file, or is of any."""
    found, known = [], known_anywhere()
    for file, name in re.findall(r"`([\w/]+\.py)`:?|`(\w+)(?:\.\.\.)?`", shown):
        if file:
            paths = [path for path in (TESTS / file, TESTS / "integration" / file) if path.exists()]
            known = known_in(paths[0]) if paths else ()
            if not known:
                found.append(file)
        elif not any(test.startswith(name) for test in known):
            found.append(name)
    return found


def test_there_are_claims() -> None:
    assert len(claims()) > 40


@pytest.mark.parametrize(("claim", "shown"), claims(), ids=[claim[:60] for claim, _ in claims()])
def test_what_shows_a_claim_is_there(claim: str, shown: str) -> None:
    assert "`" in shown and problems(shown) == [], claim


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert problems("`test_network.py`: `a_forged_source`") == []
    assert problems("`test_network.py`: `no_such_thing`; `unit/no_such.py`") == ["no_such_thing", "unit/no_such.py"]
