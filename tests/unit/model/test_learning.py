"""The smallest policy for what was reached."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hutch.model.egress import EgressEntry
from hutch.model.learning import learned


def entry(**fields: Any) -> EgressEntry:
    return EgressEntry.model_validate(
        {"seq": 1, "time": datetime.now(UTC), "kind": "connection", "allowed": True} | fields
    )


def test_names_where_they_were_asked_for_and_addresses_elsewhere() -> None:
    log = [
        entry(kind="name", name="Pypi.org", addresses=["1.1.1.1", "1.1.1.2"]),
        entry(address="1.1.1.2", port=443),
        entry(kind="name", name="git.x.org", addresses=["2.2.2.2"]),
        entry(address="2.2.2.2", port=22),
        entry(address="2.2.2.2", port=443),
        entry(name="api.y.org", address="3.3.3.3", port=443),
        entry(address="9.9.9.9", port=123, protocol="udp"),
        entry(address="8.8.8.8", port=853),
        entry(kind="name", name="unused.org", addresses=["4.4.4.4"]),
        entry(address="5.5.5.5", port=25, allowed=False),
        entry(kind="name", name="evil.org", allowed=False),
    ]
    assert learned(log).allow == ["api.y.org", "git.x.org:22,443", "pypi.org", "tcp://8.8.8.8:853", "udp://9.9.9.9:123"]
    assert learned([]).allow == []
