"""Answers the questions of sandboxes for identity tokens, which a node passes on, and those of verifiers, whether a
token still holds.

The server asks the node for questions, and not the other way round: nodes reach nothing of the server's, and its
signing key never leaves it. A node is believed which of the sandboxes *on it* asks, and nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from hutch.control.context import Context
from hutch.errors import HutchError, NodeUnavailable
from hutch.fleet import Node
from hutch.identity.claims import claims_of
from hutch.identity.issuer import Issuer, Sealing
from hutch.model import IdentityAnswer, IdentityRequest
from hutch.store.audit import Event, acting
from hutch.store.sandboxes import LIVE

log = structlog.get_logger("hutch.control")

_WAIT = 20.0
_RETRY = (0.1, 2.0)
_LOOK = 300.0
"""Seconds between two looks whether the signing key is too old."""
_ENDED = "this sandbox has ended"


def issuer_of(context: Context) -> Issuer:
    """The issuer that the settings describe."""
    settings, vault = context.settings, context.vault
    return Issuer(
        context.store,
        Sealing(vault.seal, vault.unseal),
        url=settings.issuer,
        token_seconds=settings.identity_lifetime,
        key_seconds=settings.identity_key_age,
        grace=settings.identity_key_grace,
    )


class Identities:
    """For one node."""

    def __init__(self, context: Context, issuer: Issuer, node: Node) -> None:
        self._context = context
        self._issuer = issuer
        self._node = node
        self._answers: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Answer questions as they come, for ever."""
        pause = _RETRY[0]
        while True:
            try:
                for request in await self._node.identity_requests(_WAIT):
                    self._spawn(request)
                pause = _RETRY[0]
                continue
            except NodeUnavailable:
                pass
            except Exception:
                log.exception("questions for identity tokens cannot be read", node=self._node.name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY[1])

    async def watch_age(self) -> None:
        """Change the signing key when it is old, for ever."""
        while True:
            try:
                await self._issuer.rotate_when_due()
            except Exception:
                log.exception("the age of the identity key could not be looked at")
            await asyncio.sleep(_LOOK)

    async def introspect(self, token: str) -> dict[str, Any]:
        """RFC 7662: what a token says, and whether it holds. It does until it expires, its sandbox ends, or its key is
        gone."""
        said = await self._issuer.verify(token)
        if said is None:
            return {"active": False}
        row = await self._context.store.sandboxes.get(str(said.get("sandbox")))
        return {"active": True, **said} if row is not None and row.state in LIVE else {"active": False}

    async def close(self) -> None:
        """Let go of what is being answered: the node gives it to the next process."""
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)

    def _spawn(self, request: IdentityRequest) -> None:
        task = asyncio.create_task(self._answer(request))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, request: IdentityRequest) -> None:
        try:
            await self._node.answer_identity(await self._decide(request))
        except HutchError as error:
            log.warning("a question for an identity token is not answered", sandbox=request.sandbox, error=str(error))
        except Exception:
            log.exception("a question for an identity token could not be answered", sandbox=request.sandbox)

    async def _decide(self, request: IdentityRequest) -> IdentityAnswer:
        store = self._context.store
        row = await store.sandboxes.get(request.sandbox)
        if row is None or row.node != self._node.name or row.state not in LIVE:
            return IdentityAnswer(id=request.id, refused=_ENDED)
        task = (await store.tasks.of_sandboxes([row.id])).get(row.id)
        claims = claims_of(row, task.id if task is not None else None, request.image)
        with acting(row.id):
            detail = {"audience": request.audience, "sub": claims["sub"]}
            await store.audit.record(Event(row.org, "identity", row.id, "issued", detail))
        token, expires_at = await self._issuer.sign(claims, request.audience)
        return IdentityAnswer(id=request.id, token=token, expires_at=expires_at)
