"""Templates built through E2B's API"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "for the steps of a template's build: model.BuildBoot"
    op.add_column("sandboxes", sa.Column("build", sa.JSON(none_as_null=True), nullable=True, comment=comment))
    op.create_table(
        "templates",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
    )
    op.create_index("ix_templates_org_name", "templates", ["org", "name"], unique=True)
    op.create_table(
        "template_builds",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("template_id", sa.String(32), nullable=False),
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, comment="waiting, building, ready or error"),
        sa.Column("tags", sa.JSON(), nullable=False, comment="that are its own when it is ready"),
        sa.Column("wanted", sa.JSON(), nullable=False, comment="resources other than the base's"),
        sa.Column("spec", sa.JSON(none_as_null=True), comment="what to build, once that is known"),
        sa.Column(
            "sealed_login",
            sa.LargeBinary(),
            comment="for the registry of its base image, encrypted, until it ends",
        ),
        sa.Column("base", sa.String(128), comment="the node's template that its steps are run in"),
        sa.Column("made", sa.String(128), comment="the node's template that it is"),
        sa.Column("sandbox_id", sa.String(32), comment="in which its steps are run"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False, comment="of its log"),
        sa.Column("reason", sa.JSON(none_as_null=True), comment="why it failed: {message, step}"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float()),
        sa.Column("ended_at", sa.Float()),
        sa.ForeignKeyConstraint(
            ["template_id"], ["templates.id"], name=op.f("fk_template_builds_template_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_template_builds")),
    )
    op.create_index("ix_template_builds_template_id", "template_builds", ["template_id"])
    op.create_index("ix_template_builds_state", "template_builds", ["state"])
    op.create_table(
        "template_tags",
        sa.Column("template_id", sa.String(32), nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("build_id", sa.String(36), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False, comment="of two that want a tag, the later one has it"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["template_id"], ["templates.id"], name=op.f("fk_template_tags_template_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["build_id"], ["template_builds.id"], name=op.f("fk_template_tags_build_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("template_id", "tag", name=op.f("pk_template_tags")),
    )
    op.create_index("ix_template_tags_build_id", "template_tags", ["build_id"])
    op.create_table(
        "template_logs",
        sa.Column("build_id", sa.String(36), nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False, comment="0 debug, 1 info, 2 warn, 3 error"),
        sa.Column("step", sa.String(32)),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"], ["template_builds.id"], name=op.f("fk_template_logs_build_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("build_id", "offset", name=op.f("pk_template_logs")),
    )
    op.create_table(
        "template_layers",
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("key", sa.String(64), nullable=False, comment="a hash over the steps that led to it"),
        sa.Column("layer", sa.String(64), nullable=False, comment="what the node has it by"),
        sa.Column("context", sa.JSON(), nullable=False, comment="user, directory and environment of the next step"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("org", "key", name=op.f("pk_template_layers")),
    )
    op.create_table(
        "template_files",
        sa.Column("org", sa.String(32), nullable=False),
        sa.Column("hash", sa.String(128), nullable=False, comment="what the client calls it by"),
        sa.Column("digest", sa.String(64), nullable=False, comment="of what it has sent"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("org", "hash", name=op.f("pk_template_files")),
    )
    op.create_index("ix_template_files_used_at", "template_files", ["used_at"])


def downgrade() -> None:
    for name in ("template_files", "template_layers", "template_logs", "template_tags", "template_builds", "templates"):
        op.drop_table(name)
    op.drop_column("sandboxes", "build")
