"""Templates: recipes as files, and what the API shows of them."""

from __future__ import annotations

from pydantic import Field

from hutch.model.common import Model, Resources


class Recipe(Model):
    """`template.toml`. Steps run in the image as root, in order; every step is a shell command."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    description: str = ""
    base: str | None = Field(None, description="Another template, or unset for a bare Debian.")
    suite: str = Field("bookworm", description="Debian release, when there is no `base`.")
    packages: list[str] = Field([], description="Debian packages.")
    pip: list[str] = Field([], description="Python packages for the system Python.")
    npm: list[str] = Field([], description="npm packages, installed globally.")
    steps: list[str] = []
    env: dict[str, str] = {}
    user: str = "user"
    workdir: str = "/home/user"
    agents: list[str] = Field([], description="Agents whose CLI it carries.")
    resources: Resources


class TemplateInfo(Model):
    """A template as `GET /v1/templates` shows it."""

    name: str
    description: str
    resources: Resources
    agents: list[str] = Field([], description="Agents whose CLI it carries.")
    image: str | None = Field(None, description="Content hash of the built image; unset when it is not built.")
    image_bytes: int | None = None
