"""The node's LLM gateway: sandboxes call their model provider through it, and never see the key.

A guest speaks plain HTTP to `http://llm.hutch/anthropic`, `/openai`, `/google`, or what the operator has named; the
firewall leads that to the port of this server, and the guest's own address, which it cannot choose, says which sandbox
it is. See `Call` for what happens then.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web

from hutch.egress.listener import Server
from hutch.egress.llm.account import Account, Journal, describe
from hutch.egress.llm.call import Call, exceeded_message
from hutch.egress.llm.ledger import Ledger
from hutch.egress.llm.organisation import Organisation, today
from hutch.egress.llm.prices import PriceTable
from hutch.egress.llm.providers import ANTHROPIC, Provider, table
from hutch.egress.llm.refused import Refused
from hutch.egress.llm.room import Held, Room
from hutch.model import LlmGrant, LlmUsage, OrgBudget
from hutch.settings import LlmEndpoint

MAX_CALLS = 32
"""Calls of one sandbox at once."""
_WRITE_EVERY = 1.0
_PROVIDER_SILENCE = 900.0

log = structlog.get_logger(__name__)


class LlmGateway:
    """One server and one client for all sandboxes of the node.

    `journal` is called as (sandbox, kind, data) and returns when the entry is durable; kinds and data are those of
    `JournalEntry`: `llm_usage`, `llm_auth_failed`, `llm_budget_exceeded`, `llm_org_usage`. `ledger` is the
    file, in memory, that remembers what calls under way may cost; without, a crash forgets them.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        base_urls: Mapping[str, str] | None = None,
        endpoints: Mapping[str, LlmEndpoint] | None = None,
        prices_file: Path | None = None,
        ledger: Path | None = None,
        host: str = "0.0.0.0",
        port: int = 0,
    ) -> None:
        self._journal = journal
        self._providers = table(base_urls or {}, endpoints or {})
        self._prices = PriceTable.load(prices_file)
        self._ledger = Ledger(ledger)
        self._room = Room()
        self._left: dict[str, LlmUsage] = {}
        """What sandboxes had used at most when an earlier gateway went."""
        self._orgs: dict[str, Organisation] = {}
        self._budgets: dict[str, OrgBudget] = {}
        self._host, self._port = host, port
        self._accounts: dict[str, Account] = {}
        self._by_address: dict[str, Account] = {}
        self._server: Server | None = None
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begins to listen; answers the port."""
        self._recall()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=_PROVIDER_SILENCE),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._server = Server(self._handle, handler_cancellation=True, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        self._writer = asyncio.create_task(self._write_all())
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Ends all calls, counts them, and stops listening."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        for account in self._accounts.values():
            await _end_calls(account)
        await self._write_orgs()
        told = all(account.told for account in self._accounts.values()) and not any(
            org.unwritten for org in self._orgs.values()
        )
        self._ledger.close(keep=not told)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def grant(self, sandbox_id: str, source_ip: str, grant: LlmGrant | None) -> None:
        """Lets a sandbox, told by its address, call a provider; None lets it call none. A new grant takes the place
        of the old one for the calls that follow, and the count goes on."""
        account = self._account(sandbox_id)
        if account.address is not None and account.address != source_ip:
            self._by_address.pop(account.address, None)
        account.address = source_ip
        account.regrant(grant, self._org(grant.org) if grant is not None and grant.org is not None else None)
        self._by_address[source_ip] = account
        if grant is None:
            for call in account.gate.under_way:
                call.cancel()

    def drop(self, source_ip: str) -> None:
        """Ends all connections of a sandbox that is about to be frozen; what it asks next is answered as before."""
        if self._server is not None:
            self._server.drop(source_ip)

    async def revoke(self, sandbox_id: str) -> LlmUsage | None:
        """Forgets a sandbox: ends its calls and answers its final, journaled count; None when it was not known."""
        account = self._accounts.pop(sandbox_id, None)
        if account is None:
            return None
        if account.address is not None and self._by_address.get(account.address) is account:
            del self._by_address[account.address]
        account.regrant(None)
        account.gate.unlatch()
        await _end_calls(account)
        self._ledger.forget(sandbox_id)
        return account.usage

    async def hold(self, sandbox_id: str, within: float, seconds: float) -> bool:
        """Let no call of a sandbox go to its provider any more, for at most `seconds`, from a moment on at which none
        is under way; False when there was none `within` so many seconds."""
        return await self._account(sandbox_id).gate.hold(within, seconds)

    def waiting(self, sandbox_id: str) -> int:
        """Calls of a sandbox that are held."""
        return self._account(sandbox_id).gate.waiting

    def keep_holding(self, sandbox_id: str) -> bool:
        """Hold its calls, if they are held now, until `free`; whether they are."""
        return self._account(sandbox_id).gate.latch()

    def free(self, sandbox_id: str) -> None:
        """Hold its calls no more, whoever asked for it."""
        if sandbox_id in self._accounts:
            self._accounts[sandbox_id].gate.unlatch()

    def let_go(self, sandbox_id: str) -> None:
        """Hold its calls no more; those of one that is being frozen go when that is over."""
        if sandbox_id in self._accounts:
            self._accounts[sandbox_id].gate.open()

    def usage(self, sandbox_id: str) -> LlmUsage | None:
        """What a sandbox has used so far; None when it is not known, such as one that is paused."""
        account = self._accounts.get(sandbox_id)
        return account.usage if account is not None else None

    def restore(self, sandbox_id: str, usage: LlmUsage) -> None:
        """Starts a sandbox's count from what an earlier daemon journaled; call it before `grant`."""
        self._account(sandbox_id).restore(usage)

    def restore_day(self, org: str, day: str, usage: LlmUsage) -> None:
        """Starts an organisation's count of a day (UTC, ISO) from what an earlier daemon journaled."""
        self._org(org).restore(day, usage)

    def set_budgets(self, budgets: Mapping[str, OrgBudget]) -> None:
        """Puts budgets of organisations in force, in the place of all before, for the calls under way as well."""
        self._budgets = dict(budgets)
        for org in self._orgs.values():
            org.allow(self._budgets.get(org.org))

    def _recall(self) -> None:
        """What was under way when an earlier gateway was killed counts as used."""
        for bound in self._ledger.open():
            if bound.day:
                self._org(bound.owner).restore(bound.day, bound.most)
                self._ledger.forget(bound.owner, before=today()[:7])
            else:
                self._left[bound.owner] = bound.most

    def _org(self, name: str) -> Organisation:
        if name not in self._orgs:
            self._orgs[name] = Organisation(name)
            self._orgs[name].allow(self._budgets.get(name))
        return self._orgs[name]

    def _account(self, sandbox_id: str) -> Account:
        if sandbox_id not in self._accounts:
            self._accounts[sandbox_id] = Account(sandbox_id, self._prices, self._journal, self._ledger)
            if (left := self._left.pop(sandbox_id, None)) is not None:
                self._accounts[sandbox_id].restore(left)
        return self._accounts[sandbox_id]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        name, _, rest = request.path.removeprefix("/").partition("/")
        known = self._providers.get(name)
        provider = known or ANTHROPIC
        account: Account | None = None
        try:
            account = self._by_address.get(request.remote or "")
            if account is None:
                raise Refused(403, "This address belongs to no sandbox.")
            await account.gate.passage()
            call = self._admit(request, account, known, f"/{rest}")
            return await self._run(call, account)
        except Refused as refused:
            return _refusal(provider, refused)
        except ConnectionError:
            raise  # the guest has gone
        except Exception as error:
            log.error("llm call failed", path=request.path[:200], error=describe(error))
            return _refusal(provider, Refused(500, "The gateway failed."))

    def _admit(self, request: web.BaseRequest, account: Account, provider: Provider | None, path: str) -> Call:
        """All checks, cheapest first; what passes them may cost money."""
        grant = account.grant
        if grant is None:
            raise Refused(403, "This sandbox was created without a key for a model provider.")
        if not _authenticated(request, provider or ANTHROPIC, grant.placeholder):
            raise Refused(401, "Wrong placeholder: use the key that is set in this sandbox's environment.")
        route = provider.route(request.method, path) if provider else None
        if provider is None or route is None:
            raise Refused(404, f"{request.method} {request.path[:200]} does not pass the gateway.")
        if provider.name != grant.provider:
            raise Refused(403, f"This sandbox has a key for {grant.provider}, not for {provider.name}.")
        if account.exceeded is not None:
            raise Refused(provider.final_status, exceeded_message(account))
        if len(account.gate.under_way) >= MAX_CALLS:
            raise Refused(429, f"At most {MAX_CALLS} model calls of one sandbox at once.")
        held = Held(self._room, account.sandbox)
        return Call(request, account, grant, provider, route, path, held)

    async def _run(self, call: Call, account: Account) -> web.StreamResponse:
        """The call in a task of its own: one that is charged for to its end anyway goes on when its client leaves."""
        task = asyncio.create_task(self._finish(call, account))
        task.add_done_callback(_ended)
        account.gate.entered(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not call.goes_on:
                task.cancel()
                await asyncio.wait([task])
            raise

    async def _finish(self, call: Call, account: Account) -> web.StreamResponse:
        assert self._session is not None
        task = asyncio.current_task()
        assert task is not None
        try:
            return await call.run(self._session)
        finally:
            account.gate.left(task)
            call.settle()
            account.write_soon()

    async def _write_all(self) -> None:
        """Journals every running count once a second."""
        while True:
            await asyncio.sleep(_WRITE_EVERY)
            for account in list(self._accounts.values()):
                await account.write()
            await self._write_orgs()

    async def _write_orgs(self) -> None:
        for org in list(self._orgs.values()):
            org.turn()
            days, org.unwritten = sorted(org.unwritten), set()
            try:
                for day in days:
                    data = {"org": org.org, "day": day, "usage": org.usage(day).model_dump(mode="json")}
                    await self._journal("", "llm_org_usage", data)
                if days:
                    self._ledger.write(org.bounds(days))
            except Exception as error:
                org.unwritten |= set(days)
                log.error("llm usage could not be journaled", org=org.org, error=describe(error))


def _authenticated(request: web.BaseRequest, provider: Provider, placeholder: str) -> bool:
    """Whether the placeholder came, where clients of this provider send their key; takes as long for a wrong one as
    for a right one."""
    given = [request.headers.get(name, "").removeprefix("Bearer ") for name in provider.key_names]
    given += [request.query.get("key", "")] if provider.api == "google" else []
    return any([hmac.compare_digest(text.encode("utf-8", "replace"), placeholder.encode()) for text in given])


def _ended(task: asyncio.Task[web.StreamResponse]) -> None:
    """Takes note of how it ended, also where nobody waits for it any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("llm call ended", error=describe(error))


def _refusal(provider: Provider, refused: Refused) -> web.Response:
    """In the provider's shape; the header says, to clients that heed it, whether trying again can help."""
    retry = "true" if refused.status in (429, 502, 503) else "false"
    wait = {"retry-after": "1"} if refused.status in (429, 503) else {}
    return web.Response(
        body=provider.error(refused.status, refused.message, refused.field),
        status=refused.status,
        headers={"content-type": "application/json", "x-should-retry": retry} | wait,
    )


async def _end_calls(account: Account) -> None:
    calls = account.gate.under_way
    for call in calls:
        call.cancel()
    if calls:
        await asyncio.wait(calls, timeout=5)
    await account.write()
