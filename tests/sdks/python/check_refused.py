"""What this server does not offer says so, at once, in the client's own errors."""

from __future__ import annotations

import pytest
from e2b import Sandbox, SandboxException, Template


def test_template_names() -> None:
    assert Template.exists("base") and Template.alias_exists("standard") and not Template.exists("no-such-template")


def test_not_offered() -> None:
    with pytest.raises(SandboxException, match=r"501.*mcp|not found"):
        Sandbox.create(mcp={"github": {}})
