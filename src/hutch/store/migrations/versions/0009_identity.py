"""Identities of sandboxes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("created_by", sa.String(32), comment="the API key that made it"))
    op.add_column("sandboxes", sa.Column("forked_from", sa.String(32), comment="the sandbox that it went on from"))
    op.add_column(
        "sandboxes", sa.Column("identity", sa.JSON(none_as_null=True), comment="what its tokens say: model.Identity")
    )
    op.create_table(
        "identity_keys",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False, comment="the private key, encrypted"),
        sa.Column("public", sa.JSON(), nullable=False, comment="the public key as a JSON Web Key"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("signs_since", sa.Float()),
        sa.Column("retired_at", sa.Float()),
        sa.Column("gone_at", sa.Float(), comment="when its tokens hold no more"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_keys")),
    )


def downgrade() -> None:
    op.drop_table("identity_keys")
    for name in ("identity", "forked_from", "created_by"):
        op.drop_column("sandboxes", name)
