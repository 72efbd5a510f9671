"""What a sandbox was asked for through E2B's API, as it is stored beside it."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict

from hutch.e2b.bodies import NewSandbox
from hutch.errors import InvalidRequest
from hutch.model import GUEST_PORT
from hutch.store.e2b import E2bRow


class Options(BaseModel):
    """The gateway reads `secure`, `public`, `auto_resume` and `masked_host`; the time-outs read `auto_pause`
    and `auto_pause_memory`. Header rules are not among `network`: they are kept sealed, with the sandbox."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    template_id: str = ""
    secure: bool = True
    public: bool = True
    auto_pause: bool = False
    auto_pause_memory: bool = True
    auto_resume: bool = False
    masked_host: str | None = None
    network: dict[str, Any] | None = None
    iam: dict[str, str] = {}
    """Audiences of the identity tokens that rules may refer to, by name."""
    allow_internet_access: bool | None = None
    digest: str = ""

    @classmethod
    def of(cls, row: E2bRow) -> Options:
        """The stored ones."""
        return cls.model_validate(row.options)


def options_of(body: NewSandbox, secure: bool) -> Options:
    """The options of a new sandbox. Raises `InvalidRequest`."""
    refuse_unknown(body)
    network = body.network.model_dump(by_alias=True, exclude_defaults=True, mode="json", exclude={"rules"})
    return Options(
        template_id=body.template_id,
        secure=secure,
        public=body.network.allow_public_traffic is not False,
        auto_pause=body.auto_pause,
        auto_pause_memory=body.auto_pause_memory,
        auto_resume=body.auto_resume.enabled,
        masked_host=body.network.mask_request_host,
        network=network or None,
        iam=body.iam.audiences(),
        allow_internet_access=body.allow_internet_access,
        digest=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
    )


def refuse_unknown(body: NewSandbox) -> None:
    """Raise for what cannot be done here: a sandbox without it would not be what was asked for."""
    if GUEST_PORT in body.network.https_ports:
        raise InvalidRequest(f"network: `httpsPorts`: {GUEST_PORT} is the sandbox's own port", field="httpsPorts")
    if not body.auto_pause_memory and (not body.auto_pause or body.auto_resume.enabled):
        raise InvalidRequest("autoPauseMemory: false goes with autoPause, and not with autoResume")
