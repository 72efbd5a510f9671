"""Whether the model provider of a task may reach the network for it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "whether the provider may reach the network for it"
    op.add_column("tasks", sa.Column("provider_tools", sa.Boolean(), nullable=True, comment=comment))


def downgrade() -> None:
    op.drop_column("tasks", "provider_tools")
