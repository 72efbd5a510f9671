"""Answers what sandboxes ask about names: allowed names have addresses of IPv4, and nothing else is told."""

from __future__ import annotations

import asyncio

from hutch.egress.fence import dns_wire
from hutch.egress.fence.dns_wire import NOERROR, NXDOMAIN, SERVFAIL, BadMessage, Question
from hutch.egress.fence.guarded import Guarded, Wall
from hutch.egress.fence.refusal import Refused
from hutch.model.rules import clean_name

MAX_FREE = 64
"""Characters that may stand for the `*` of a wildcard: enough for host names, little for a tunnel."""
MAX_FREE_LABELS = 4
MAX_ASKING = 32
"""Questions of one sandbox under way."""
MAX_ADDRESSES = 16
MAX_TTL = 3600
GRACE = 15.0
"""Seconds beyond its TTL in which an address counts: a client connects after it was told."""


async def respond(wall: Wall, guest: str, data: bytes) -> bytes | None:
    """The answer to a guest's message; None: it gets none."""
    guarded = wall.find(guest)
    try:
        question = dns_wire.parse_question(data)
    except BadMessage:
        return None
    if guarded is None or not guarded.questions.take(asyncio.get_running_loop().time()):
        return dns_wire.answer(question, dns_wire.REFUSED, note="too many questions")
    try:
        return await _answer(wall, guarded, question)
    except Refused as refused:
        wall.node.report(kind="name", sandbox=guarded.id, name=question.name[:253], allowed=False, reason=str(refused))
        return dns_wire.answer(question, NXDOMAIN, note=str(refused))


async def _answer(wall: Wall, guarded: Guarded, question: Question) -> bytes:
    name = clean_name(question.name)
    if name is None or not guarded.permit.resolves(name):
        raise Refused("not in policy")
    if question.kind != dns_wire.A:
        # No IPv6, and no HTTPS records, which would bring the keys to encrypt the server's name with.
        return dns_wire.answer(question, NOERROR)
    _check_free_part(guarded, name)
    if guarded.asking >= MAX_ASKING:
        return _unasked(wall, guarded, question)
    guarded.asking += 1
    try:
        return await _resolve(wall, guarded, question, name)
    finally:
        guarded.asking -= 1


def _check_free_part(guarded: Guarded, name: str) -> None:
    """What a sandbox may say through names below a wildcard is bounded. Raises `Refused`."""
    part = guarded.permit.free_part(name)
    if part is None:
        return
    if len(part) > MAX_FREE or part.count(".") >= MAX_FREE_LABELS:
        raise Refused(f"its part below the wildcard is longer than {MAX_FREE} characters or {MAX_FREE_LABELS} labels")
    now = asyncio.get_running_loop().time()
    if not guarded.names.has(name, now) and not guarded.new_names.take(now):
        raise Refused("too many new names below a wildcard")


async def _resolve(wall: Wall, guarded: Guarded, question: Question, name: str) -> bytes:
    found = await wall.upstream.ask(guarded.address, name, guarded.name_servers)
    if found is None:
        return _unasked(wall, guarded, question)
    if found.code not in (NOERROR, NXDOMAIN):
        wall.node.report(
            kind="name", sandbox=guarded.id, name=name, allowed=True, reason="the name server does not answer"
        )
        return dns_wire.answer(question, SERVFAIL)
    addresses = [address for address in found.addresses if guarded.permit.tells(name, address)][:MAX_ADDRESSES]
    if found.addresses and not addresses:
        raise Refused(f"it has the address {found.addresses[0]}, which is not public")
    if addresses and not await _let_in(wall, guarded, name, addresses, min(found.ttl, MAX_TTL)):
        return dns_wire.answer(question, SERVFAIL)
    wall.node.report(kind="name", sandbox=guarded.id, name=name, allowed=True, addresses=addresses)
    return dns_wire.answer(question, found.code, addresses, min(found.ttl, MAX_TTL))


def _unasked(wall: Wall, guarded: Guarded, question: Question) -> bytes:
    """Told so that it asks again: a moment later there may be room."""
    reason = "too many of the sandbox's names wait for an answer"
    wall.node.report(kind="name", sandbox=guarded.id, name=question.name[:253], allowed=True, reason=reason)
    return dns_wire.answer(question, SERVFAIL)


async def _let_in(wall: Wall, guarded: Guarded, name: str, addresses: list[str], ttl: int) -> bool:
    """Before the guest is told: it may connect at once."""
    seconds = max(float(ttl), wall.floor) + GRACE
    until = asyncio.get_running_loop().time() + seconds
    ports = guarded.permit.ports(name)
    targets = [
        (address, port)
        for address in addresses
        for port in ports
        if guarded.permit.direct(address, port) is None or guarded.permit.brokered(name, port)
    ]
    if targets and not await wall.node.bind(guarded.address, targets, seconds):
        return False
    guarded.names.add(name, addresses, until)
    return True
