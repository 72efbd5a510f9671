"""The settings: environment `HUTCH_*`, over an optional file (`HUTCH_CONFIG`, TOML), over these defaults."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class LlmEndpoint(BaseModel):
    """One more model provider, which the operator names: vLLM, Ollama, OpenRouter, Azure, a proxy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: Literal["anthropic", "openai", "google"] = "openai"
    base_url: str = Field(pattern=r"^https?://[^\s?#]+$", max_length=1024)
    """For `openai` with its `/v1`, for the others without."""
    key_header: Literal["authorization", "x-api-key", "api-key", "x-goog-api-key"] | None = None
    """Where the key goes; default: as with the provider whose form it has. Azure: `api-key`."""
    query: dict[str, str] = {}
    """Added to every call, such as `api-version`."""


class Settings(BaseSettings):
    """Everything an operator can set. Each field's description is what `docs/reference/settings.md` prints."""

    model_config = SettingsConfigDict(env_prefix="HUTCH_", extra="forbid")

    data_dir: Path = Field(
        Path("/var/lib/hutch"), description="What must survive a restart: the database, artifacts, sandboxes."
    )
    cache_dir: Path = Field(
        Path("/var/cache/hutch"), description="Built images, by content hash; may be emptied at any time."
    )
    run_dir: Path = Field(Path("/run/hutch"), description="Sockets, pid files, and keys of running sandboxes; a tmpfs.")
    host: str = Field("127.0.0.1", description="Address on which the API listens.")
    port: int = Field(8700, ge=0, le=65535, description="Port on which the API listens; 0 takes a free one.")
    gateway_port: int = Field(
        8701,
        ge=0,
        le=65535,
        description="Port, on the same address, on which sandboxes' own ports are reached; 0 takes a free one.",
    )
    domain: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$",
        description="Domain whose names lead here: `api.<domain>` to the API, `<port>-<sandbox>.<domain>` to the ports "
        "of sandboxes. With `:port` where clients use another than 443 and than `HUTCH_TLS_PORT`.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9][A-Za-z0-9.:/_-]*$",
        description="URL under which the API is reached from elsewhere; it is the issuer of identity tokens. Default: "
        "`https://api.<domain>` with TLS, else where the API listens.",
    )
    identity_lifetime: float = Field(300, ge=60, le=900, description="Seconds for which an identity token holds.")
    identity_key_age: float = Field(
        30 * 86400, ge=3600, description="Seconds after which the key that signs identity tokens is changed."
    )
    identity_key_grace: float = Field(
        3600, ge=0, le=30 * 86400, description="Seconds for which tokens of the old key hold after that."
    )
    tls_cert: Path | None = Field(
        None, description="Certificate for all names below `domain`, with those that signed it (PEM)."
    )
    tls_key: Path | None = Field(None, description="The key of `tls_cert` (PEM, without a password).")
    tls_self: bool = Field(False, description="Serve a certificate of a local authority, which is made for `domain`.")
    tls_host: str = Field("0.0.0.0", description="Address on which the port with TLS listens.")
    tls_port: int = Field(
        443, ge=0, le=65535, description="Port with TLS, for API and gateway by host name; 0 takes a free one."
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL; default: SQLite below `data_dir`. PostgreSQL: `postgresql+asyncpg://USER:PASSWORD@HOST/NAME`.",
    )
    server_user: str = Field("hutch", description="System user that the server process runs as.")
    runsc: str = Field("runsc", description="The gVisor binary.")
    subnet_pool: str = Field(
        "10.200.0.0/14", description="Private range from which each node takes a free /20 for its slots."
    )
    private_networks: str = Field(
        "",
        description="Private networks that policies may name, with commas between them: "
        "`10.20.0.0/16,192.168.7.0/24`. Sandboxes reach no others, and these only by rules about their addresses.",
    )
    egress_resolver: str | None = Field(
        None,
        pattern=r"^[0-9.]+(:[0-9]{1,5})?$",
        description="Name server (IPv4 address, and port) that is asked for the names that network rules allow; "
        "default: the host's.",
    )
    egress_floor: float = Field(
        60, ge=1, le=3600, description="Seconds for which a name's address is reached at least, however short its TTL."
    )
    slots_ahead: int = Field(4, ge=0, le=256, description="Network slots kept ready ahead of demand.")
    max_sandboxes: int = Field(500, ge=1, le=1000, description="Most sandboxes on this node at once.")
    templates_dir: Path | None = Field(None, description="A folder of your own templates, beside the built-in ones.")
    prices_file: Path | None = Field(
        None, description="Model prices (TOML) used to count dollars; default: the built-in table."
    )
    anthropic_base_url: str = Field(
        "https://api.anthropic.com", description="Where the LLM gateway sends Anthropic calls."
    )
    openai_base_url: str = Field("https://api.openai.com/v1", description="Where the LLM gateway sends OpenAI calls.")
    google_base_url: str = Field(
        "https://generativelanguage.googleapis.com", description="Where the LLM gateway sends Google calls."
    )
    llm_providers: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")], LlmEndpoint] = Field(
        {},
        description="Other model providers, by name, as JSON: `{NAME: {api, base_url, key_header, query}}`. `api` is "
        "the form in which they are called: `openai`, `anthropic` or `google`.",
    )
    default_lifetime: float = Field(
        3600, gt=0, description="Seconds until a sandbox is destroyed when the call sets no `lifetime`."
    )
    max_lifetime: float = Field(30 * 86400, gt=0, description="Longest `lifetime` a call may ask for, in seconds.")
    artifact_retention: float = Field(
        7 * 86400, gt=0, description="Seconds for which outputs and ended sandboxes' records are kept."
    )
    max_upload: int = Field(8 << 30, gt=0, description="Largest input upload or fetched URL, in bytes.")
    max_artifact: int = Field(4 << 30, gt=0, description="Largest `outputs` artifact of one task, in bytes.")
    audit_reads: bool = Field(True, description="Have calls that only read in the audit log as well.")
    audit_retention: float = Field(
        365 * 86400, ge=86400, description="Seconds for which records of the audit log are kept."
    )
    trace: Literal["off", "processes", "all"] = Field(
        "all",
        description="What the kernels of sandboxes tell the audit log of what goes on inside: nothing, which programs "
        "are started, or also where processes connect to.",
    )
    allow_private_inputs: bool = Field(
        False, description="Let `inputs` be fetched from private addresses (development only)."
    )
    snapshot_cache: int = Field(
        16 << 30,
        ge=0,
        description="Bytes of snapshots kept as plain files, ready to thaw, beside the compressed store.",
    )
    snapshot_cpu_share: float = Field(
        0.5, gt=0, le=1, description="Part of one CPU core that storing and compressing snapshots may take."
    )
    snapshot_scrub_mib: float = Field(
        8,
        ge=0,
        description="MiB a second that are read of kept snapshots to look for damage, a round of all of them a day; "
        "0 turns this off.",
    )
    snapshot_bytes: int | None = Field(
        None,
        gt=0,
        description="Bytes that the snapshots of an organisation may take on a node, compressed; above that nobody can "
        "take one, and pauses go on. Default: as many as the disk has room for.",
    )
    snapshot_keep: int = Field(
        100,
        ge=1,
        description="Newest unnamed snapshots kept of each sandbox: as many of its pauses, of its forks, and of those "
        "that somebody took.",
    )
    snapshot_keep_checkpoints: int = Field(100, ge=1, description="Newest unnamed checkpoints kept of each sandbox.")
    snapshot_keep_safety: float = Field(
        86400, ge=0, description="Seconds for which a rollback's unnamed safety snapshot is kept."
    )
    snapshot_keep_orphans: float = Field(
        30 * 86400,
        ge=0,
        description="Seconds after which an unnamed snapshot that somebody took goes, once its sandbox is gone.",
    )
    template_snapshots: bool = Field(
        True, description="Thaw sandboxes from a snapshot of their template, which is made when it is missing."
    )
    volume_bytes: int = Field(
        16 << 30,
        gt=0,
        description="Bytes that an organisation's volumes may have together, 4096 for each file beside its length.",
    )
    volumes_per_org: int = Field(100, ge=1, description="Volumes that an organisation may have.")
    build_cache: int = Field(
        8 << 30,
        ge=0,
        description="Bytes of what the steps of template builds have written, kept for the next build of the same.",
    )
    oci_dir: Path | None = Field(
        None, description="A folder of images in the OCI layout, which templates may begin with as `oci:NAME`."
    )
    max_image: int = Field(16 << 30, gt=0, description="Largest image that templates begin with, in bytes, unpacked.")
    templates_per_org: int = Field(
        50,
        ge=1,
        description="Templates that an organisation may have built through E2B's API, each tag of one counted by "
        "itself: each is an image on the node's disk.",
    )
    builds_at_once: int = Field(2, ge=1, le=64, description="Template builds through E2B's API that run at a time.")
    build_network: str = Field(
        "allow_all",
        description="What the steps of a template build may reach: `allow_all`, `deny_all`, or rules and names of "
        "policies with commas between them (`packages,*.example.com`).",
    )
    build_timeout: float = Field(3600, gt=0, description="Seconds that one of them may take.")
    warm_pool_mib: int | None = Field(
        None,
        ge=0,
        description="Memory for sandboxes that are thawed ahead of demand, in MiB; 0 turns this off. Default: 5 % of "
        "the machine's, at most 1024.",
    )
    kernels_ahead: int = Field(
        2,
        ge=0,
        le=64,
        description="Kernels with nothing in them that are begun ahead of creates, resumes, rollbacks and forks. "
        "0 turns this off.",
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_json: bool = Field(False, description="Write logs as JSON lines.")

    @field_validator("llm_providers")
    @classmethod
    def _own_names(cls, named: dict[str, LlmEndpoint]) -> dict[str, LlmEndpoint]:
        if taken := sorted(named.keys() & {"anthropic", "openai", "google"}):
            raise ValueError(f"{taken[0]} is Hutch's own: choose another name, or set its base URL")
        return named

    @property
    def tls_wanted(self) -> bool:
        """Whether there shall be a port with TLS."""
        return self.tls_self or self.tls_cert is not None or self.tls_key is not None

    @property
    def server_dir(self) -> Path:
        """Below `data_dir`, owned by the server's user."""
        return self.data_dir / "server"

    @property
    def node_dir(self) -> Path:
        """Below `data_dir`, root's only."""
        return self.data_dir / "node"

    @property
    def node_socket(self) -> Path:
        """Unix socket of the node's API."""
        return self.run_dir / "node.sock"

    @property
    def dial_socket(self) -> Path:
        """Unix socket of the node on which it gives out connections to ports inside sandboxes."""
        return self.run_dir / "dial.sock"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.server_dir / 'hutch.db'}"

    @property
    def issuer(self) -> str:
        """`iss` of identity tokens."""
        return self.public_url or f"http://{self.host}:{self.port}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = os.environ.get("HUTCH_CONFIG")
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(path))) if path else sources


@cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
