"""The node's calls to a sandbox's PID 1. Everything it answers is hostile: bounded in size and time, validated."""

from __future__ import annotations

import asyncio
import base64
import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_bytes
from typing import Any

import aiohttp
from pydantic import ValidationError

from hutch.errors import GuestUnavailable
from hutch.model import GUEST_PORT, LimitBreach, Resources
from hutch.network.base import IDENTITY_ADDRESS, IDENTITY_NAME, LLM_ADDRESS
from hutch.network.resetting import resetting_socket

_ANSWER_LIMIT = 64 * 1024
_TEXT_LIMIT = 300
_PATIENCE = 5.0
_FIRST_RETRY = 0.005
_ENTROPY = 64
_SLOWEST_RETRY = 0.05
_RENEW_SECONDS = 3.0


class GuestClient:
    """HTTP to `http://<guest address>:49983`, straight over the slot's link."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            # A connection that is kept open would only have to be cut when the sandbox is frozen.
            connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=resetting_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def stop(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def prepare(
        self,
        address: str,
        sandbox: str | None,
        token: str,
        boot_id: str,
        env: dict[str, str],
        resources: Resources,
        within: float,
        secrets: dict[str, Any] | None = None,
    ) -> None:
        """Tell the guest who it is (`sandbox` None: nobody yet), as soon as it answers. Raises `GuestUnavailable` after
        `within` seconds.

        There is no asking whether it is ready first: that would be one more round trip in every boot.
        """
        body = _identity(sandbox, token, boot_id, resources) | {"env": env, "secrets": secrets or {}}
        await self._introduce(address, "/hutch/prepare", [token], body, within)

    async def thaw(
        self,
        address: str,
        sandbox: str | None,
        frozen_tokens: list[str],
        token: str,
        boot_id: str,
        env: dict[str, str] | None,
        resources: Resources,
        within: float,
        secrets: dict[str, Any] | None = None,
    ) -> None:
        """Tell a guest that was thawed who it is now (`env` None: its environment stays; `sandbox` None: nobody yet),
        and give it entropy. Raises `GuestUnavailable` after `within` seconds, or when the guest refuses."""
        entropy = base64.b64encode(token_bytes(_ENTROPY)).decode()
        body = _identity(sandbox, token, boot_id, resources) | {
            "env": env,
            "entropy": entropy,
            "secrets": secrets or {},
        }
        # The new token too: an attempt whose answer was lost has already put it into force.
        await self._introduce(address, "/hutch/thaw", [*frozen_tokens, token], body, within)

    async def renew_token(self, address: str, known: list[str], token: str, former_seconds: float) -> None:
        """Have it ask for `token` instead of the one that it asks for, one of `known`; that one stays good for some
        seconds. Raises `GuestUnavailable`."""
        body = {"access_token": token, "former_seconds": former_seconds}
        await self._introduce(address, "/hutch/token", [*known, token], body, _RENEW_SECONDS)

    async def tell_secrets(self, address: str, token: str, secrets: dict[str, Any]) -> None:
        """Give a guest that runs other placeholders, and another authority to trust. Raises `GuestUnavailable`."""
        await self._introduce(address, "/hutch/secrets", [token], {"secrets": secrets}, _RENEW_SECONDS)

    async def _introduce(self, address: str, path: str, tokens: list[str], body: dict[str, Any], within: float) -> None:
        """Try until the guest answers."""
        end = time.monotonic() + within
        pause = _FIRST_RETRY
        known = list(tokens)
        while True:
            try:
                now = {"time": time.time()}
                await self.call("POST", address, path, token=known[0], body=body | now)
                return
            except GuestUnavailable as error:
                if error.extra.get("status") == 401 and len(known) > 1:
                    known.pop(0)
                elif "status" in error.extra or time.monotonic() + pause > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 1.15, _SLOWEST_RETRY)

    async def ready(self, address: str, within: float) -> None:
        """As soon as the guest answers. Raises `GuestUnavailable` after `within` seconds."""
        end = time.monotonic() + within
        pause = _FIRST_RETRY
        while True:
            try:
                await self.call("GET", address, "/hutch/ready")
                return
            except GuestUnavailable as error:
                if "status" in error.extra or time.monotonic() + pause > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 1.15, _SLOWEST_RETRY)

    async def relieve(self, address: str, token: str, limit: int, used: int) -> LimitBreach:
        """Have the guest kill its largest process; what it did. Raises `GuestUnavailable`."""
        body = {"limit": "memory", "amount": limit, "used": used}
        answer = await self.call("POST", address, "/hutch/limit", timeout=1.5, token=token, body=body)
        return _memory_breach(answer, limit, used)

    async def call(
        self,
        method: str,
        address: str,
        path: str,
        *,
        token: str = "",
        body: dict[str, Any] | None = None,
        timeout: float = _PATIENCE,
        limit: int = _ANSWER_LIMIT,
    ) -> bytes:
        """One call; at most `limit` bytes of its answer. Raises `GuestUnavailable`, with its `status` if it answers."""
        async with self.opened(method, address, path, token, timeout, body=body) as response:
            return await _read(response, limit)

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        address: str,
        path: str,
        token: str,
        timeout: float,
        stream: AsyncIterator[bytes] | None = None,
        *,
        body: dict[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is good, to be read within `timeout` seconds, and with care. Raises `GuestUnavailable`, also
        for what happens while it is read."""
        assert self._session is not None
        url = f"http://{address}:{GUEST_PORT}{path}"
        headers = {"X-Access-Token": token}
        limits = aiohttp.ClientTimeout(total=None)
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    method, url, json=body, data=stream, headers=headers, allow_redirects=False, timeout=limits
                ) as response,
            ):
                if response.status not in (200, 201, 204):
                    text = (await _read(response, _TEXT_LIMIT)).decode("utf-8", "replace")
                    said = f"the guest answered {response.status} to {path}: {text}"
                    raise GuestUnavailable(said, status=response.status)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GuestUnavailable(f"{path}: {str(error)[:_TEXT_LIMIT] or type(error).__name__}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise GuestUnavailable(f"{path}: {str(error)[:_TEXT_LIMIT] or type(error).__name__}") from error


def _identity(sandbox: str | None, token: str, boot_id: str, resources: Resources) -> dict[str, Any]:
    names = {"sandbox_id": sandbox, "hostname": hostname(sandbox)} if sandbox is not None else {}
    return names | {
        "access_token": token,
        "boot_id": boot_id,
        "hosts": {"llm.hutch": LLM_ADDRESS, IDENTITY_NAME: IDENTITY_ADDRESS},
        "limits": {
            "memory_bytes": resources.memory_mib << 20,
            "pids": resources.pids,
            "disk_bytes": resources.disk_mib << 20,
        },
    }


def hostname(sandbox: str) -> str:
    """The host name a sandbox sees: its id, in the letters that host names allow."""
    return sandbox.replace("_", "-")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    answer = await response.content.read(limit)
    while answer and not response.content.at_eof() and len(answer) < limit:
        more = await response.content.read(limit - len(answer))
        if not more:
            break
        answer += more
    return answer


def _memory_breach(answer: bytes, limit: int, used: int) -> LimitBreach:
    """What the guest says it killed. Only the process's name and number are its to say; the figures are ours."""
    try:
        said = LimitBreach.model_validate_json(answer)
    except ValidationError as error:
        raise GuestUnavailable("the guest's answer to /hutch/limit is not a breach") from error
    process = "".join(c for c in said.process or "" if c.isprintable())[:64] or None
    killed = said.action == "process_killed"
    what = f"process {process} killed" if killed and process else "a process killed" if killed else "nothing to kill"
    return LimitBreach(
        limit="memory",
        amount=limit,
        used=used,
        pid=said.pid if said.pid is not None and 0 < said.pid < 2**31 else None,
        process=process,
        action="process_killed" if killed else "refused",
        message=f"memory limit {limit >> 20} MiB reached; {what}",
    )
