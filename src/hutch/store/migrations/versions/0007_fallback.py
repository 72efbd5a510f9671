"""Sandboxes that may fall back to their disk"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "what it falls back to where memory cannot be thawed: disk, or nothing"
    op.add_column("sandboxes", sa.Column("fallback", sa.String(length=8), nullable=True, comment=comment))


def downgrade() -> None:
    op.drop_column("sandboxes", "fallback")
