"""Named policies of organisations"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    told = "revisions of those that its node was told"
    op.add_column("sandboxes", sa.Column("policies_told", sa.JSON(), nullable=False, server_default="{}", comment=told))
    op.create_table(
        "policies",
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("allow", sa.JSON(), nullable=False, comment="rules"),
        sa.Column("revision", sa.String(32), nullable=False, comment="another one with every change"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("org", "name", name=op.f("pk_policies")),
    )


def downgrade() -> None:
    op.drop_table("policies")
    op.drop_column("sandboxes", "policies_told")
