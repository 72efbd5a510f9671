"""Turns of tasks, and the way back to them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No batch: on SQLite that may make the table anew, and deleting the old one would cascade.
    comment = "when it takes checkpoints: model.Checkpoints"
    op.add_column("tasks", sa.Column("checkpoints", sa.JSON(), nullable=False, server_default='"off"', comment=comment))
    comment = "answers that the model has completed"
    op.add_column("tasks", sa.Column("turn", sa.Integer(), nullable=False, server_default="0", comment=comment))
    comment = "a rollback under way: control/rewinds.py"
    op.add_column("tasks", sa.Column("rewind", sa.JSON(none_as_null=True), nullable=True, comment=comment))
    op.create_table(
        "bookmarks",
        sa.Column("snapshot", sa.String(length=32), nullable=False),
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("task", sa.JSON(), nullable=False, comment="what the task's row said of its progress"),
        sa.Column("guest_offset", sa.BigInteger(), nullable=False, comment="the rest: as in readers"),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.Column("stdout", sa.LargeBinary(), nullable=False),
        sa.Column("stderr", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False),
        sa.Column("exit", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("event_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_bookmarks_task_id_tasks"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("snapshot", name=op.f("pk_bookmarks")),
    )
    op.create_index("ix_bookmarks_task_id_created_at", "bookmarks", ["task_id", "created_at"])


def downgrade() -> None:
    op.drop_table("bookmarks")
    for name in ("rewind", "turn", "checkpoints"):
        op.drop_column("tasks", name)
