"""Volumes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "mounted in it: [{volume, name, path}]"
    op.add_column("sandboxes", sa.Column("volumes", sa.JSON(none_as_null=True), nullable=True, comment=comment))
    op.create_table(
        "volumes",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False, comment="its id once it is being removed"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("removed_at", sa.Float(), comment="since when it is being removed, its files first"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
    )
    op.create_index("ix_volumes_org_name", "volumes", ["org", "name"], unique=True)


def downgrade() -> None:
    op.drop_table("volumes")
    op.drop_column("sandboxes", "volumes")
