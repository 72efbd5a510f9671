"""The bodies of E2B's calls. `null` is what is not there; fields that are newer than this file are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic.alias_generators import to_camel

from hutch.model.common import MAX_STRING
from hutch.model.headers import MAX_HEADER_RULES
from hutch.model.identity import AUDIENCE
from hutch.model.network import MAX_NAME_SERVERS

MAX_TOKENS = 32


class Body(BaseModel):
    """Names are camelCase on the wire, unless a field says otherwise."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, str_max_length=MAX_STRING
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: Any) -> Any:
        return {name: value for name, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


class AutoResume(Body):
    """What wakes a paused sandbox."""

    enabled: bool = False


class Transform(BaseModel):
    """What a request gets. Anything else than headers is refused, and not passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=MAX_STRING)

    headers: dict[str, str] = {}


class Rule(BaseModel):
    """One of a host's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transform: Transform = Transform()


class Egress(Body):
    """What the sandbox may reach. What it does not know is refused: to pass over a restriction would be to open."""

    model_config = ConfigDict(extra="forbid")

    allow_out: list[str] = Field([], max_length=1000)
    deny_out: list[str] = Field([], max_length=1000)
    dns_servers: list[str] | None = Field(None, max_length=MAX_NAME_SERVERS)
    egress_proxy: dict[str, Any] = {}
    rules: dict[str, list[Rule]] = Field({}, max_length=MAX_HEADER_RULES)


class NetworkUpdate(Egress):
    """`PUT /sandboxes/{id}/network`: what is not there is cleared."""

    allow_internet_access: bool | None = Field(None, alias="allow_internet_access")


class Network(Egress):
    """`network` of a new sandbox."""

    allow_public_traffic: bool | None = None
    mask_request_host: str | None = Field(None, max_length=253, pattern=r"^[!-~]+$")
    https_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field([], max_length=100)


class Mounted(Body):
    """One of `volumeMounts`."""

    name: str = Field(max_length=128)
    path: str = Field(max_length=1024)


class NewVolume(Body):
    """`POST /volumes`."""

    name: str = Field(max_length=128)


class IamToken(Body):
    """One of the identity tokens that rules refer to. There is one type."""

    model_config = ConfigDict(extra="forbid")

    audience: str = Field(pattern=AUDIENCE)
    token_type: Literal["JWT-SVID"]


class Iam(Body):
    """`iam` of a new sandbox."""

    model_config = ConfigDict(extra="forbid")

    tokens: dict[Annotated[str, Field(pattern=r"^[^{}\x00-\x1f\x7f-\x9f]{1,128}$")], IamToken] = Field(
        {}, max_length=MAX_TOKENS
    )

    def audiences(self) -> dict[str, str]:
        """By the tokens' names."""
        return {name: token.audience for name, token in self.tokens.items()}


class NewSandbox(Body):
    """`POST /sandboxes`, `POST /v2/sandboxes`."""

    template_id: str = Field("base", alias="templateID", min_length=1, max_length=256)
    timeout: int = 300
    metadata: dict[str, str] = {}
    env_vars: dict[str, str] = {}
    auto_pause: bool = False
    auto_pause_memory: bool = True
    auto_resume: AutoResume = AutoResume()
    allow_internet_access: bool | None = Field(None, alias="allow_internet_access")
    network: Network = Network()
    volume_mounts: list[Mounted] = Field([], max_length=16)
    mcp: dict[str, Any] = {}
    """Nothing is done with it here: the client runs `mcp-gateway` in the sandbox, which has it from the template."""
    iam: Iam = Iam()
    secure: bool | None = None


class Connect(Body):
    """`POST /sandboxes/{id}/connect` and `/resume`."""

    timeout: int = 300
    auto_pause: bool | None = None
    memory: bool = True


class Timeout(Body):
    """`POST /sandboxes/{id}/timeout`."""

    timeout: int


class Refresh(Body):
    """`POST /sandboxes/{id}/refreshes`."""

    duration: int = Field(60, ge=0)


class PauseSandbox(Body):
    """`POST /sandboxes/{id}/pause`."""

    memory: bool = True


class TakeSnapshot(Body):
    """`POST /sandboxes/{id}/snapshots`."""

    name: str | None = Field(None, min_length=1, max_length=256)
    memory: bool = True


class ForkSandbox(Body):
    """`POST /sandboxes/{id}/fork`."""

    count: int = Field(1, ge=1, le=20)
    timeout: int = 300


class NewSecret(Body):
    """`POST /secrets`."""

    name: str
    value: SecretStr
    metadata: dict[str, str] = {}


class SecretUpdate(Body):
    """`POST /secrets/{id}`."""

    value: SecretStr
    metadata: dict[str, str] | None = None


class RequestBuild(Body):
    """`POST /v3/templates`, `POST /v2/templates`."""

    name: str | None = Field(None, min_length=1, max_length=300)
    alias: str | None = Field(None, min_length=1, max_length=300)
    tags: list[str] = Field([], max_length=50)
    cpu_count: int | None = Field(None, ge=1, le=64)
    memory_mb: int | None = Field(None, alias="memoryMB", ge=64, le=262144)
    min_free_disk_mb: int | None = Field(None, ge=0, le=1048576)


class BuildStep(Body):
    """One instruction."""

    type: str = Field(max_length=16)
    args: list[str] = Field([], max_length=2000)
    files_hash: str | None = Field(None, max_length=128)
    force: bool = False


class StartBuild(Body):
    """`POST /v2/templates/{id}/builds/{build}`."""

    from_image: str | None = None
    from_template: str | None = None
    from_image_registry: dict[str, Any] = {}
    start_cmd: str | None = None
    ready_cmd: str | None = None
    steps: list[BuildStep] = Field([], max_length=500)
    force: bool = False


class AssignTags(Body):
    """`POST /templates/tags`."""

    target: str = Field(min_length=1, max_length=300)
    tags: list[str] = Field(max_length=50)


class RemoveTags(Body):
    """`DELETE /templates/tags`."""

    name: str = Field(min_length=1, max_length=300)
    tags: list[str] = Field(max_length=50)
