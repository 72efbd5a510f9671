"""The tables. Times are Unix seconds (the models' datetimes are made from them); `org` is on every noun that a tenant
owns, so that several tenants later are a filter and not a migration."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)

DEFAULT_ORG = "org_default"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("name", String(256), nullable=False),
    Column("prefix", String(32), nullable=False, index=True),
    Column("hash", String(256), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("last_used_at", Float),
    Column("revoked_at", Float),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False, comment="rises with every state change: the compare in compare-and-set"),
    Column("node", String(128), comment="the fleet's name of the node it was placed on"),
    Column("template", String(128), nullable=False),
    Column("resources", JSON, nullable=False),
    Column("network", JSON, nullable=False, comment="as it was asked for: named policies by their names"),
    Column(
        "policies_told", JSON, nullable=False, server_default="{}", comment="revisions of those that its node was told"
    ),
    Column("labels", JSON, nullable=False),
    Column("keep", Boolean, nullable=False, server_default=false(), comment="outlives its task"),
    Column("sealed_env", LargeBinary, comment="environment, encrypted, until the sandbox is booted"),
    Column("secrets", JSON, nullable=False, server_default="[]", comment="names of those that it may use"),
    Column("sealed_secrets", LargeBinary, comment="its placeholders and its authority: control/secret_grants.py"),
    Column("guest_token", String(256)),
    Column("guest_user", String(64)),
    Column("workdir", String(4096)),
    Column("created_by", String(32), comment="the API key that made it"),
    Column("forked_from", String(32), comment="the sandbox that it went on from"),
    Column("identity", JSON(none_as_null=True), comment="what its tokens say: model.Identity"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("deadline", Float, nullable=False),
    Column(
        "snapshot",
        String(32),
        comment="what a paused one stands on, a running one came from, a rollback goes to",
    ),
    Column("taking", String(32), comment="the snapshot that a move under way takes of it first"),
    Column("paused_at", Float, comment="since when it is paused"),
    Column(
        "hibernated",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="since `paused_at` only its disk is kept",
    ),
    Column("build", JSON(none_as_null=True), comment="for the steps of a template's build: model.BuildBoot"),
    Column("public_ports", JSON, nullable=False, server_default="[]", comment="those that need no token, in order"),
    Column("volumes", JSON(none_as_null=True), comment="mounted in it: [{volume, name, path}]"),
    Column("fallback", String(8), comment="what it falls back to where memory cannot be thawed: disk, or nothing"),
    Column("fork", String(32), comment="the fork that it is of, until all of that are made"),
    Column("resumed", JSON(none_as_null=True), comment="its last resume or rollback: {memory, ms, at}"),
    Column("idle_timeout", Float, comment="seconds without activity after which it is paused; never when unset"),
    Column("last_active", Float, comment="written now and then, not at every call"),
    Column("start", String(16), comment="how it came to run: warm, thaw or boot"),
    Column("start_reason", Text, comment="why it was booted and not thawed"),
    Column("reason", Text),
    Column("problem", JSON(none_as_null=True), comment="the error that the creating call got"),
    Column("breaches", JSON, nullable=False),
    Column("usage", JSON, nullable=False),
    Index("ix_sandboxes_org_created_at", "org", "created_at"),
    Index("ix_sandboxes_state", "state"),
)

labels = Table(
    "labels",
    metadata,
    Column("sandbox_id", String(32), ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("value", String(1024), nullable=False),
    Index("ix_labels_key_value", "key", "value"),
)

e2b_sandboxes = Table(
    "e2b_sandboxes",
    metadata,
    Column("sandbox_id", String(32), ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("options", JSON, nullable=False, comment="what the call that made it asked for"),
    Column("timeout", Float, nullable=False, comment="seconds that it was last given"),
    Column("end_at", Float, comment="when it is killed or paused; unset while it is paused"),
)

volumes = Table(
    "volumes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("name", String(128), nullable=False, comment="its id once it is being removed"),
    Column("created_at", Float, nullable=False),
    Column("removed_at", Float, comment="since when it is being removed, its files first"),
    Index("ix_volumes_org_name", "org", "name", unique=True),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("sandbox_id", String(32), ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("agent", String(64), nullable=False),
    Column("model", String(128)),
    Column("state", String(16), nullable=False),
    Column("step", String(16), nullable=False, comment="what the worker does next: see control/tasks.py"),
    Column("fence", Integer, nullable=False, comment="rises with every claim; a write with an older one is refused"),
    Column("lease_owner", String(64)),
    Column("lease_until", Float, nullable=False),
    Column("budget", JSON, nullable=False),
    Column("usage", JSON, nullable=False),
    Column("warned", JSON, nullable=False, comment="parts of the budget of which the 80 % warning was given"),
    Column("breaches", JSON, nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("inputs_done", Integer, nullable=False),
    Column("output_globs", JSON, nullable=False),
    Column("output_files", JSON, nullable=False, comment="[path, size, offset in the artifact]"),
    Column("outputs_truncated", Boolean, nullable=False),
    Column("artifact", String(256), comment="the blob's key"),
    Column("artifact_bytes", BigInteger),
    Column("sealed_llm_key", LargeBinary, comment="encrypted; removed when the task ends"),
    Column("llm_provider", String(32), comment="whose key that is, where the call said so"),
    Column("provider_tools", Boolean, comment="whether the provider may reach the network for it"),
    Column("placeholder", String(128), comment="what the guest has in the key's place"),
    Column("exec_id", String(32), comment="the agent's process in the guest"),
    Column("stop", JSON(none_as_null=True), comment="why the agent must stop: {state, error, detail}; the first stays"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float, comment="when the agent started"),
    Column("ended_at", Float),
    Column("result", JSON(none_as_null=True)),
    Column("last_offset", BigInteger, nullable=False, comment="of its newest event"),
    Column("prompt", Text, nullable=False, comment="shortened"),
    Column(
        "checkpoints",
        JSON,
        nullable=False,
        server_default='"off"',
        comment="when it takes checkpoints: model.Checkpoints",
    ),
    Column("turn", Integer, nullable=False, server_default="0", comment="answers that the model has completed"),
    Column("rewind", JSON(none_as_null=True), comment="a rollback under way: control/rewinds.py"),
    Index("ix_tasks_org_created_at", "org", "created_at"),
    Index("ix_tasks_step_lease_until", "step", "lease_until"),
)

prompts = Table(
    "prompts",
    metadata,
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("text", Text, nullable=False),
)

readers = Table(
    "readers",
    metadata,
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("guest_offset", BigInteger, nullable=False, comment="what was read of the agent's output"),
    Column("lines", JSON, nullable=False, comment="state of the line splitters, without their bytes"),
    Column("stdout", LargeBinary, nullable=False, comment="the beginning of a line whose end has not come yet"),
    Column("stderr", LargeBinary, nullable=False),
    Column("outcome", JSON, nullable=False, comment="agents.base.Outcome"),
    Column("exit", JSON(none_as_null=True), comment="the final state of the agent's process"),
    Column("event_bytes", BigInteger, nullable=False, comment="how much this task's events take"),
)

bookmarks = Table(
    "bookmarks",
    metadata,
    Column("snapshot", String(32), primary_key=True),
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("task", JSON, nullable=False, comment="what the task's row said of its progress"),
    Column("guest_offset", BigInteger, nullable=False, comment="the rest: as in readers"),
    Column("lines", JSON, nullable=False),
    Column("stdout", LargeBinary, nullable=False),
    Column("stderr", LargeBinary, nullable=False),
    Column("outcome", JSON, nullable=False),
    Column("exit", JSON(none_as_null=True)),
    Column("event_bytes", BigInteger, nullable=False),
    Index("ix_bookmarks_task_id_created_at", "task_id", "created_at"),
)

events = Table(
    "events",
    metadata,
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("type", String(32), nullable=False),
    Column("data", JSON, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

templates = Table(
    "templates",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("name", String(128), nullable=False),
    Column("created_at", Float, nullable=False),
    Index("ix_templates_org_name", "org", "name", unique=True),
)

template_builds = Table(
    "template_builds",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("template_id", String(32), ForeignKey("templates.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("org", String(32), nullable=False),
    Column("state", String(16), nullable=False, index=True, comment="waiting, building, ready or error"),
    Column("tags", JSON, nullable=False, comment="that are its own when it is ready"),
    Column("wanted", JSON, nullable=False, comment="resources other than the base's"),
    Column("spec", JSON(none_as_null=True), comment="what to build, once that is known"),
    Column("sealed_login", LargeBinary, comment="for the registry of its base image, encrypted, until it ends"),
    Column("base", String(128), comment="the node's template that its steps are run in"),
    Column("made", String(128), comment="the node's template that it is"),
    Column("sandbox_id", String(32), comment="in which its steps are run"),
    Column("attempts", Integer, nullable=False),
    Column("lines", Integer, nullable=False, comment="of its log"),
    Column("reason", JSON(none_as_null=True), comment="why it failed: {message, step}"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
)

template_tags = Table(
    "template_tags",
    metadata,
    Column("template_id", String(32), ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("build_id", String(36), ForeignKey("template_builds.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("asked_at", Float, nullable=False, comment="of two that want a tag, the later one has it"),
    Column("created_at", Float, nullable=False),
)

template_logs = Table(
    "template_logs",
    metadata,
    Column("build_id", String(36), ForeignKey("template_builds.id", ondelete="CASCADE"), primary_key=True),
    Column("offset", Integer, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("level", Integer, nullable=False, comment="0 debug, 1 info, 2 warn, 3 error"),
    Column("step", String(32)),
    Column("message", Text, nullable=False),
)

template_layers = Table(
    "template_layers",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("key", String(64), primary_key=True, comment="a hash over the steps that led to it"),
    Column("layer", String(64), nullable=False, comment="what the node has it by"),
    Column("context", JSON, nullable=False, comment="user, directory and environment of the next step"),
    Column("created_at", Float, nullable=False),
)

template_files = Table(
    "template_files",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("hash", String(128), primary_key=True, comment="what the client calls it by"),
    Column("digest", String(64), nullable=False, comment="of what it has sent"),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False, index=True),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", String(32), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("sandbox_id", String(32), nullable=False),
    Column("response", JSON(none_as_null=True), comment="the answer, once there is one"),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

identity_keys = Table(
    "identity_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False, comment="the private key, encrypted"),
    Column("public", JSON, nullable=False, comment="the public key as a JSON Web Key"),
    Column("created_at", Float, nullable=False),
    Column("signs_since", Float),
    Column("retired_at", Float),
    Column("gone_at", Float, comment="when its tokens hold no more"),
)

llm_budgets = Table(
    "llm_budgets",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("budget", JSON, nullable=False, comment="model.OrgBudget"),
    Column("changed_at", Float, nullable=False),
)

llm_days = Table(
    "llm_days",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("day", String(10), primary_key=True, comment="in UTC, ISO"),
    Column("node", String(128), primary_key=True, comment="its lasting id; each counts what went through it"),
    Column("usage", JSON, nullable=False, comment="model.LlmUsage of that day so far"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("hosts", JSON, nullable=False, comment="where it may be sent"),
    Column("places", JSON, nullable=False, comment="where in a request"),
    Column("sealed", LargeBinary, nullable=False, comment="its value, encrypted with a key of secrets.keys"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

e2b_secrets = Table(
    "e2b_secrets",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", String(32), nullable=False),
    Column("name", String(128), nullable=False, comment="in small letters"),
    Column("version", Integer, nullable=False, comment="how many values it has had"),
    Column("sealed", LargeBinary, nullable=False, comment="its value, encrypted with a key of secrets.keys"),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_e2b_secrets_org_name", "org", "name", unique=True),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time", String(32), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("request", String(64), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("prev", String(64), nullable=False, comment="hash of the record before"),
    Column("hash", String(64), nullable=False, comment="over all the rest: model.AuditRecord"),
    Index("ix_audit_records_org_subject_seq", "org", "subject", "seq"),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("time", String(32), nullable=False),
    Column("signature", String(128), nullable=False, comment="Ed25519, base64"),
)

policies = Table(
    "policies",
    metadata,
    Column("org", String(32), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("allow", JSON, nullable=False, comment="rules"),
    Column("revision", String(32), nullable=False, comment="another one with every change"),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

node_cursor = Table(
    "node_cursor",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("seq", BigInteger, nullable=False, comment="the last journal entry that was applied"),
)
