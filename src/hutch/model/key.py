"""API keys, as the API shows them."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from hutch.model.common import Model


class CreateKey(Model):
    """`POST /v1/keys`."""

    name: str = Field(min_length=1, max_length=256, description="What it is for; shown in the list.")
    expires_in: float | None = Field(None, gt=0, le=10 * 366 * 86400, description="Seconds; unset: never.")


class ApiKey(Model):
    """A key without its secret."""

    id: str
    name: str
    prefix: str = Field(description="How the key begins: enough to recognise it, useless without the rest.")
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = Field(None, description="To the minute.")
    revoked_at: datetime | None = None


class NewApiKey(ApiKey):
    """The answer to `POST /v1/keys`."""

    key: str = Field(description="The key itself. It is shown this once, and stored only as a hash.")
