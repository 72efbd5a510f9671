"""How sandboxes came to run"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("start", sa.String(length=16), "how it came to run: warm, thaw or boot"),
    ("start_reason", sa.Text(), "why it was booted and not thawed"),
)


def upgrade() -> None:
    for name, kind, comment in _COLUMNS:  # no batch: see 0002
        op.add_column("sandboxes", sa.Column(name, kind, nullable=True, comment=comment))


def downgrade() -> None:
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("sandboxes", name)
