"""Templates: recipes as files, and what the API shows of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hutch.model.common import Model, Resources
from hutch.model.network import NetworkPolicy


class Recipe(Model):
    """`template.toml`. Steps run in the image as root, in order; every step is a shell command."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    description: str = ""
    base: str | None = Field(None, description="Another template, or unset for a bare Debian.")
    suite: str = Field("bookworm", description="Debian release, when there is no `base`.")
    packages: list[str] = Field([], description="Debian packages.")
    pip: list[str] = Field([], description="Python packages for the system Python.")
    npm: list[str] = Field([], description="npm packages, installed globally.")
    files: str | None = Field(
        None,
        min_length=1,
        description="A folder beside `template.toml`; what is in it is laid into the image from `/` on, before the "
        "steps.",
    )
    steps: list[str] = []
    env: dict[str, str] = {}
    user: str = "user"
    workdir: str = "/home/user"
    start: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        max_length=16,
        description="Resident processes: shell commands that are started with the machine, as the template's user, and "
        "live in every sandbox of the template. One that has exited with 0 has done its work.",
    )
    ready: str | None = Field(
        None, min_length=1, description="Shell command that exits with 0 when the resident processes are ready."
    )
    ready_timeout: float = Field(60, gt=0, le=90, description="Seconds within which `ready` must have succeeded.")
    agents: list[str] = Field([], description="Agents whose CLI it carries.")
    network: NetworkPolicy | None = Field(
        None, description="What its sandboxes may reach when the call does not say; unset: nothing."
    )
    resources: Resources


class TemplateInfo(Model):
    """A template as `GET /v1/templates` shows it."""

    name: str
    description: str
    resources: Resources
    agents: list[str] = Field([], description="Agents whose CLI it carries.")
    network: NetworkPolicy | None = Field(None, description="What its sandboxes may reach when the call does not say.")
    org: str | None = Field(None, description="Whose it is; unset where everybody may use it.")
    image: str | None = Field(None, description="Content hash of the built image; unset when it is not built.")
    image_bytes: int | None = None
    snapshot: bool = Field(False, description="Whether a sandbox of it is thawed from a snapshot rather than booted.")
    warm: int = Field(0, description="Sandboxes of it that are thawed already and wait to be claimed.")
