"""Model providers by name; budgets of organisations and what they have spent"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "whose key that is, where the call said so"
    op.add_column("tasks", sa.Column("llm_provider", sa.String(length=32), nullable=True, comment=comment))
    op.create_table(
        "llm_budgets",
        sa.Column("org", sa.String(length=32), nullable=False),
        sa.Column("budget", sa.JSON(), nullable=False, comment="model.OrgBudget"),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("org", name=op.f("pk_llm_budgets")),
    )
    op.create_table(
        "llm_days",
        sa.Column("org", sa.String(length=32), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False, comment="in UTC, ISO"),
        sa.Column(
            "node", sa.String(length=128), nullable=False, comment="its lasting id; each counts what went through it"
        ),
        sa.Column("usage", sa.JSON(), nullable=False, comment="model.LlmUsage of that day so far"),
        sa.PrimaryKeyConstraint("org", "day", "node", name=op.f("pk_llm_days")),
    )


def downgrade() -> None:
    op.drop_table("llm_days")
    op.drop_table("llm_budgets")
    op.drop_column("tasks", "llm_provider")
