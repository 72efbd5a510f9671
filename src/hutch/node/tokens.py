"""Another token for the guest of a sandbox that goes on after a snapshot: the old one is in the snapshot's memory, and
with that in all its forks."""

from __future__ import annotations

import secrets
from http import HTTPStatus

import structlog

from hutch.errors import GuestUnavailable
from hutch.node.entry import Entry
from hutch.node.parts import Parts

log = structlog.get_logger("hutch.node")

_FORMER_SECONDS = 15.0
"""For calls that are on their way. The server learns the new one with the answer to the snapshot."""


def new_token() -> str:
    """Nobody guesses it."""
    return secrets.token_urlsafe(24)


async def renew_token(parts: Parts, entry: Entry) -> None:
    """Of a sandbox that runs, with its lock held. Written down before the guest is told, so that a daemon that is
    killed in between still knows both. Where it fails, the janitor tries again: the snapshot is taken all the same.
    A guest of an earlier version, which has no such call, keeps its token."""
    token = entry.record.next_token or new_token()
    entry.record = entry.record.but(next_token=token)
    try:
        await parts.records.save(entry.record)
        known = entry.record.guest_token
        try:
            await parts.guests.renew_token(entry.record.address, [known], token, _FORMER_SECONDS)
        except GuestUnavailable as error:
            if error.extra.get("status") != HTTPStatus.NOT_FOUND:
                raise
            log.warning("guest of an earlier version shares its token with its forks", sandbox=entry.id)
            token = known
        renewed = entry.record.but(guest_token=token, next_token="")
        await parts.records.save(renewed)
        entry.record = renewed
    except (GuestUnavailable, OSError) as error:
        log.warning("guest keeps its token for now", sandbox=entry.id, error=str(error))
