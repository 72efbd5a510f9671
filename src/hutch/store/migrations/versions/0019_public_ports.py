"""Ports of a sandbox that are reached without a token"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "those that need no token, in order"
    op.add_column(
        "sandboxes", sa.Column("public_ports", sa.JSON(), nullable=False, server_default="[]", comment=comment)
    )


def downgrade() -> None:
    op.drop_column("sandboxes", "public_ports")
