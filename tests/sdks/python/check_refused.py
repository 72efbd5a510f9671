"""What this server does not offer says so, at once, in the client's own errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from e2b import Sandbox, Secret, Template


def test_template_names() -> None:
    assert Template.exists("base") and Template.alias_exists("standard") and not Template.exists("no-such-template")


@pytest.mark.parametrize(
    "call",
    [
        lambda: Secret.create("s", "value"),
        lambda: Sandbox.create(mcp={"github": {}}),
    ],
)
def test_not_offered(call: Callable[[], Any]) -> None:
    with pytest.raises(Exception, match=r"not offered|not found") as caught:  # each kind has a class of its own
        call()
    assert type(caught.value).__module__ == "e2b.exceptions"
