"""Secrets of organisations"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    names = "names of those that it may use"
    op.add_column("sandboxes", sa.Column("secrets", sa.JSON(), nullable=False, server_default="[]", comment=names))
    sealed = "its placeholders and its authority: control/secret_grants.py"
    op.add_column("sandboxes", sa.Column("sealed_secrets", sa.LargeBinary(), nullable=True, comment=sealed))
    op.create_table(
        "secrets",
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("hosts", sa.JSON(), nullable=False, comment="where it may be sent"),
        sa.Column("places", sa.JSON(), nullable=False, comment="where in a request"),
        sa.Column(
            "sealed", sa.LargeBinary(), nullable=False, comment="its value, encrypted with a key of secrets.keys"
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("org", "name", name=op.f("pk_secrets")),
    )


def downgrade() -> None:
    op.drop_table("secrets")
    op.drop_column("sandboxes", "sealed_secrets")
    op.drop_column("sandboxes", "secrets")
