"""Bring the schema up to date, in-process: the Alembic configuration is made here, so that it works from a wheel."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from hutch.store.engine import Database


def alembic_config(connection: Connection) -> Config:
    """The configuration for a connection in whose transaction everything happens."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(database: Database) -> None:
    """Run the migrations that are missing, all or none."""
    async with database.write() as connection:
        await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), "head"))
