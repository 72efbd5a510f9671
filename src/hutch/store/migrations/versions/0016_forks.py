"""Forks that are not whole yet"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sandboxes",
        sa.Column("fork", sa.String(32), nullable=True, comment="the fork that it is of, until all of that are made"),
    )


def downgrade() -> None:
    op.drop_column("sandboxes", "fork")
