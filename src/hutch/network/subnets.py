"""The /20 of each node: nodes that share a host (tests, mostly) must not share addresses.

Claims stand in a file of the host, under a lock. They are as lasting as what they protect, namespaces and links,
which are gone after a reboot: so the file is in /run. A claim whose node has left nothing in the kernel is free
again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

from hutch.errors import LimitReached

CLAIMS = Path("/run/hutch-subnets.json")
PREFIX = 20
_USERS = range(64496, 65520)
"""Users that belong to nobody; those before them are for the node's children."""


def user_of(subnet: IPv4Network) -> int:
    """A user of this node's alone, as the subnet is: what one node's firewall says of its user concerns no other's."""
    return _USERS[(int(subnet.network_address) >> (32 - PREFIX)) % len(_USERS)]


def claim(
    node: str,
    pool: IPv4Network,
    taken: list[IPv4Network],
    lives: Callable[[str], bool],
    settle: Callable[[IPv4Network], None],
) -> None:
    """Have the node's own /20 of `pool`: the one it had, else a free one that overlaps none of `taken`, which is what
    the host uses already. `lives` says whether another node still has something in the kernel; `settle` puts
    something of this node there, before others can look. Raises `LimitReached`."""
    with _claims() as claims:
        subnet = _choose(claims, node, pool, taken, lives)
        claims[node] = str(subnet)
        settle(subnet)


def release(node: str) -> None:
    """Give the node's subnet back."""
    with _claims() as claims:
        claims.pop(node, None)


def _choose(
    claims: dict[str, str], node: str, pool: IPv4Network, taken: list[IPv4Network], lives: Callable[[str], bool]
) -> IPv4Network:
    own = claims.get(node)
    if own is not None and IPv4Network(own).subnet_of(pool):
        return IPv4Network(own)
    for other in [other for other in claims if other == node or not lives(other)]:
        del claims[other]
    used = taken + [IPv4Network(subnet) for subnet in claims.values()]
    for candidate in pool.subnets(new_prefix=max(PREFIX, pool.prefixlen)):
        if not any(candidate.overlaps(other) for other in used):
            return candidate
    raise LimitReached(
        f"no free /{PREFIX} in {pool}",
        hint="Choose another HUTCH_SUBNET_POOL, or `hutch down` a node that is not used any more.",
        limit="subnets",
        nodes=sorted(claims),
    )


@contextlib.contextmanager
def _claims() -> Iterator[dict[str, str]]:
    """The claims, locked; what was changed is written at the end."""
    with open(CLAIMS.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            claims: dict[str, str] = json.loads(CLAIMS.read_text())
        except (FileNotFoundError, ValueError):
            claims = {}
        before = dict(claims)
        yield claims
        if claims != before:
            temporary = CLAIMS.with_suffix(".tmp")
            temporary.write_text(json.dumps(claims))
            temporary.replace(CLAIMS)
