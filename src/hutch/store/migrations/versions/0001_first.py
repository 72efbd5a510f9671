"""The first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("sandbox_id", sa.String(length=32), nullable=False),
        sa.Column("response", sa.JSON(none_as_null=True), nullable=True, comment="the answer, once there is one"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency")),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("org", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("prefix", sa.String(length=32), nullable=False),
        sa.Column("hash", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("last_used_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
    )
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_keys_prefix"), ["prefix"], unique=False)

    op.create_table(
        "node_cursor",
        sa.Column("node", sa.String(length=128), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="the last journal entry that was applied"),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_node_cursor")),
    )
    op.create_table(
        "sandboxes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("org", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "version",
            sa.Integer(),
            nullable=False,
            comment="rises with every state change: the compare in compare-and-set",
        ),
        sa.Column(
            "node", sa.String(length=128), nullable=True, comment="the fleet's name of the node it was placed on"
        ),
        sa.Column("template", sa.String(length=128), nullable=False),
        sa.Column("resources", sa.JSON(), nullable=False),
        sa.Column("network", sa.JSON(), nullable=False, comment="as it was asked for: named policies by their names"),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("keep", sa.Boolean(), server_default=sa.false(), nullable=False, comment="outlives its task"),
        sa.Column(
            "sealed_env", sa.LargeBinary(), nullable=True, comment="environment, encrypted, until the sandbox is booted"
        ),
        sa.Column("guest_token", sa.String(length=256), nullable=True),
        sa.Column("guest_user", sa.String(length=64), nullable=True),
        sa.Column("workdir", sa.String(length=4096), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("deadline", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True, comment="the error that the creating call got"),
        sa.Column("breaches", sa.JSON(), nullable=False),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sandboxes")),
    )
    with op.batch_alter_table("sandboxes", schema=None) as batch_op:
        batch_op.create_index("ix_sandboxes_org_created_at", ["org", "created_at"], unique=False)
        batch_op.create_index("ix_sandboxes_state", ["state"], unique=False)

    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("org", sa.String(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_uploads_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "labels",
        sa.Column("sandbox_id", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("value", sa.String(length=1024), nullable=False),
        sa.ForeignKeyConstraint(
            ["sandbox_id"], ["sandboxes.id"], name=op.f("fk_labels_sandbox_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sandbox_id", "key", name=op.f("pk_labels")),
    )
    with op.batch_alter_table("labels", schema=None) as batch_op:
        batch_op.create_index("ix_labels_key_value", ["key", "value"], unique=False)

    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("org", sa.String(length=32), nullable=False),
        sa.Column("sandbox_id", sa.String(length=32), nullable=False),
        sa.Column("agent", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "step", sa.String(length=16), nullable=False, comment="what the worker does next: see control/tasks.py"
        ),
        sa.Column(
            "fence",
            sa.Integer(),
            nullable=False,
            comment="rises with every claim; a write with an older one is refused",
        ),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("budget", sa.JSON(), nullable=False),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column(
            "warned", sa.JSON(), nullable=False, comment="parts of the budget of which the 80 % warning was given"
        ),
        sa.Column("breaches", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("inputs_done", sa.Integer(), nullable=False),
        sa.Column("output_globs", sa.JSON(), nullable=False),
        sa.Column("output_files", sa.JSON(), nullable=False, comment="[path, size, offset in the artifact]"),
        sa.Column("outputs_truncated", sa.Boolean(), nullable=False),
        sa.Column("artifact", sa.String(length=256), nullable=True, comment="the blob's key"),
        sa.Column("artifact_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sealed_llm_key", sa.LargeBinary(), nullable=True, comment="encrypted; removed when the task ends"),
        sa.Column("placeholder", sa.String(length=128), nullable=True, comment="what the guest has in the key's place"),
        sa.Column("exec_id", sa.String(length=32), nullable=True, comment="the agent's process in the guest"),
        sa.Column(
            "stop",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="why the agent must stop: {state, error, detail}; the first stays",
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True, comment="when the agent started"),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("last_offset", sa.BigInteger(), nullable=False, comment="of its newest event"),
        sa.Column("prompt", sa.Text(), nullable=False, comment="shortened"),
        sa.ForeignKeyConstraint(["sandbox_id"], ["sandboxes.id"], name=op.f("fk_tasks_sandbox_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.create_index("ix_tasks_org_created_at", ["org", "created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_tasks_sandbox_id"), ["sandbox_id"], unique=False)
        batch_op.create_index("ix_tasks_step_lease_until", ["step", "lease_until"], unique=False)

    op.create_table(
        "events",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_events_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "offset", name=op.f("pk_events")),
    )
    op.create_table(
        "prompts",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_prompts_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_prompts")),
    )
    op.create_table(
        "readers",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("guest_offset", sa.BigInteger(), nullable=False, comment="what was read of the agent's output"),
        sa.Column("lines", sa.JSON(), nullable=False, comment="state of the line splitters, without their bytes"),
        sa.Column(
            "stdout", sa.LargeBinary(), nullable=False, comment="the beginning of a line whose end has not come yet"
        ),
        sa.Column("stderr", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False, comment="agents.base.Outcome"),
        sa.Column("exit", sa.JSON(none_as_null=True), nullable=True, comment="the final state of the agent's process"),
        sa.Column("event_bytes", sa.BigInteger(), nullable=False, comment="how much this task's events take"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_readers_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_readers")),
    )


def downgrade() -> None:
    op.drop_table("readers")
    op.drop_table("prompts")
    op.drop_table("events")
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_index("ix_tasks_step_lease_until")
        batch_op.drop_index(batch_op.f("ix_tasks_sandbox_id"))
        batch_op.drop_index("ix_tasks_org_created_at")

    op.drop_table("tasks")
    with op.batch_alter_table("labels", schema=None) as batch_op:
        batch_op.drop_index("ix_labels_key_value")

    op.drop_table("labels")
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_uploads_expires_at"))

    op.drop_table("uploads")
    with op.batch_alter_table("sandboxes", schema=None) as batch_op:
        batch_op.drop_index("ix_sandboxes_state")
        batch_op.drop_index("ix_sandboxes_org_created_at")

    op.drop_table("sandboxes")
    op.drop_table("node_cursor")
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_keys_prefix"))

    op.drop_table("keys")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_expires_at"))

    op.drop_table("idempotency")
