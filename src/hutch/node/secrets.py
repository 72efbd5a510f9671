"""What the node's sandboxes may use of secrets: given to the broker, kept in memory for the next daemon, and what a
guest is told of it."""

from __future__ import annotations

from typing import Any

from hutch.egress.brokering import Broker
from hutch.model.grant import SecretGrant
from hutch.node.records import RecordStore
from hutch.tls.minting import subject_hash

AUTHORITY, BUNDLE = "/run/hutch/trust/authority.pem", "/run/hutch/trust/bundle.pem"
"""Where the guest puts the authority that it is told, and the same with all others that the image trusts."""

_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL, and with it Python's ssl and httpx; Go
    "REQUESTS_CA_BUNDLE",  # Python's requests, and with it pip and many clients
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
)


class NodeSecrets:
    """Those of all sandboxes."""

    def __init__(self, records: RecordStore, broker: Broker) -> None:
        self._records = records
        self._broker = broker

    async def give(self, sandbox: str, grant: SecretGrant | None) -> bool:
        """This is what it may use, from when this returns. Whether its guest, if it runs, has to be told of another
        authority."""
        before = self._broker.of(sandbox)
        await self._records.save_secrets(sandbox, grant)
        await self._broker.grant(sandbox, grant)
        if grant is None or not grant.hosts:
            return False
        return before is None or before.authority != grant.authority

    def now(self, sandbox: str) -> SecretGrant | None:
        """What it may use."""
        return self._broker.of(sandbox)

    async def restore(self, sandbox: str) -> None:
        """What it was given before it was paused, or before an earlier daemon went."""
        if (grant := await self._records.load_secrets(sandbox)) is not None:
            await self._broker.grant(sandbox, grant)

    async def rest(self, sandbox: str) -> None:
        """It does not run: nothing is used in its name."""
        await self._broker.forget(sandbox)

    def introduction(self, sandbox: str | None) -> dict[str, Any]:
        """What its guest is told; nothing, when it has no secrets."""
        grant = self._broker.of(sandbox) if sandbox is not None else None
        if grant is None:
            return {}
        shown = {each.name: each.placeholder or each.value for each in grant.secrets}
        env = {name: value.get_secret_value() for name, value in shown.items() if value is not None}
        if not grant.hosts:
            return {"env": env}
        trust = dict.fromkeys(_BUNDLE_VARIABLES, BUNDLE) | {"NODE_EXTRA_CA_CERTS": AUTHORITY}
        return {"env": trust | env, "authority": grant.authority, "hash": subject_hash(grant.authority)}
