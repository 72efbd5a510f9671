"""Sandboxes that are paused"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = (
    (
        "snapshot",
        sa.String(length=32),
        "what a paused one stands on, a running one came from, a rollback goes to",
    ),
    ("taking", sa.String(length=32), "the snapshot that a move under way takes of it first"),
    ("paused_at", sa.Float(), "since when it is paused"),
    ("idle_timeout", sa.Float(), "seconds without activity after which it is paused; never when unset"),
    ("last_active", sa.Float(), "written now and then, not at every call"),
)


def upgrade() -> None:
    # No batch: on SQLite that may make the table anew, and deleting the old one would cascade to tasks and labels.
    for name, kind, comment in _COLUMNS:
        op.add_column("sandboxes", sa.Column(name, kind, nullable=True, comment=comment))


def downgrade() -> None:
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("sandboxes", name)
