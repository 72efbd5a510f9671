"""A sandbox's identity: what its signed token says, and the keys that sign."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from hutch.model.common import Model

AUDIENCE = r"^[!-~]{1,255}$"
"""Who a token is for. AWS takes no longer one."""

Repository = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@~-]*$")]
Permission = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:*-]*$")]


class Identity(Model):
    """What whoever makes a sandbox has its identity token say, beside what Hutch knows of it. Hutch vouches for who has
    said it and allows nothing by it: that is for those who verify the token."""

    app: str | None = Field(
        None, max_length=32, pattern=r"^[a-z0-9][a-z0-9._-]*$", description="The application that it works for."
    )
    user: str | None = Field(
        None, min_length=1, max_length=128, pattern=r"^[!-~]+( [!-~]+)*$", description="The person it works for."
    )
    repositories: list[Repository] = Field([], max_length=16, description="For example `acme/web`.")
    permissions: list[Permission] = Field([], max_length=16, description="For example `contents:read`.")


class IdentityRequest(Model):
    """A sandbox asks for a token: what its node knows of it, and whom the token is to be for."""

    id: str = Field(max_length=64, description="The question's own.")
    sandbox: str = Field(max_length=64)
    image: str = Field(max_length=128, description="Content hash of its root file system's image.")
    audience: str = Field(pattern=AUDIENCE)


class IdentityAnswer(Model):
    """What the server says to that: a token, or why there is none."""

    id: str = Field(max_length=64)
    token: str | None = None
    expires_at: float = Field(0, description="Unix time.")
    refused: str | None = None


class SigningKey(Model):
    """A key of the issuer's, without what is secret of it."""

    id: str = Field(description="`kid` of the tokens that it signs.")
    state: str = Field(description="`next` (published ahead), `current` (signs), `retired` (its tokens still hold).")
    created_at: datetime
    signs_since: datetime | None = None
    retired_at: datetime | None = None
    gone_at: datetime | None = Field(None, description="When it leaves the published keys.")


class Issuer(Model):
    """`GET /v1/identity`: who signs identity tokens, and with what."""

    issuer: str = Field(description="`iss` of all tokens. Clouds must reach it by https.")
    jwks_url: str
    token_seconds: float = Field(description="How long a token holds.")
    keys: list[SigningKey]


class RotateKeys(Model):
    """`POST /v1/identity/rotate`."""

    grace: float | None = Field(
        None,
        ge=0,
        le=30 * 86400,
        allow_inf_nan=False,
        description="Seconds for which tokens of the old key still hold; default: the setting. 0 where it has leaked.",
    )
