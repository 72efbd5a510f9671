"""Secrets that were made through E2B's API"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "e2b_secrets",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False, comment="in small letters"),
        sa.Column("version", sa.Integer(), nullable=False, comment="how many values it has had"),
        sa.Column(
            "sealed", sa.LargeBinary(), nullable=False, comment="its value, encrypted with a key of secrets.keys"
        ),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_e2b_secrets")),
    )
    op.create_index("ix_e2b_secrets_org_name", "e2b_secrets", ["org", "name"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_e2b_secrets_org_name", table_name="e2b_secrets")
    op.drop_table("e2b_secrets")
