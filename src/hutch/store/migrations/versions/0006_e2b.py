"""Sandboxes made through E2B's API"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "e2b_sandboxes",
        sa.Column("sandbox_id", sa.String(length=32), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False, comment="what the call that made it asked for"),
        sa.Column("timeout", sa.Float(), nullable=False, comment="seconds that it was last given"),
        sa.Column("end_at", sa.Float(), nullable=True, comment="when it is killed or paused; unset while it is paused"),
        sa.ForeignKeyConstraint(
            ["sandbox_id"],
            ["sandboxes.id"],
            name=op.f("fk_e2b_sandboxes_sandbox_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sandbox_id", name=op.f("pk_e2b_sandboxes")),
    )


def downgrade() -> None:
    op.drop_table("e2b_sandboxes")
