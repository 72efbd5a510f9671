"""Alembic's entry: the connection comes from `hutch.store.migrate`; there is no offline mode."""

from __future__ import annotations

from alembic import context

from hutch.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
