"""Sandboxes of which only the disk is kept"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No batch: on SQLite that may make the table anew, and deleting the old one would cascade to tasks and labels.
    op.add_column(
        "sandboxes",
        sa.Column(
            "hibernated",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="since `paused_at` only its disk is kept",
        ),
    )
    op.add_column(
        "sandboxes",
        sa.Column("resumed", sa.JSON(none_as_null=True), comment="its last resume or rollback: {memory, ms, at}"),
    )


def downgrade() -> None:
    for name in ("resumed", "hibernated"):
        op.drop_column("sandboxes", name)
