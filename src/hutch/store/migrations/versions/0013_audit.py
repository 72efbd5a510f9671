"""The audit log"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_records",
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("prev", sa.String(64), nullable=False, comment="hash of the record before"),
        sa.Column("hash", sa.String(64), nullable=False, comment="over all the rest: model.AuditRecord"),
        sa.PrimaryKeyConstraint("org", "seq", name=op.f("pk_audit_records")),
    )
    op.create_index("ix_audit_records_org_subject_seq", "audit_records", ["org", "subject", "seq"])
    op.create_table(
        "audit_heads",
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False, comment="Ed25519, base64"),
        sa.PrimaryKeyConstraint("org", "seq", name=op.f("pk_audit_heads")),
    )


def downgrade() -> None:
    op.drop_table("audit_heads")
    op.drop_table("audit_records")
