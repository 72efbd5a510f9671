"""Bring the schema up to date, in-process: the Alembic configuration is made here, so that it works from a wheel.

Most databases that are opened are up to date, and most others are new. Neither needs Alembic, whose import and
migrations take longer than the rest of opening one: a new SQLite file is made in one step from `schema.sql`, which
`scripts/export_schema.py` writes, and which a test compares with what the migrations make.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from hutch.store.engine import Database

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA = Path(__file__).parent / "schema.sql"
_REVISION = re.compile(r"^-- Revision: (\w+)$", re.MULTILINE)


def alembic_config(connection: Connection) -> Config:
    """The configuration for a connection in whose transaction everything happens."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(database: Database) -> None:
    """Make the tables of a new database, or run the migrations that are missing, all or none."""
    async with database.write() as connection:
        await connection.run_sync(_upgrade)


def migrate(connection: Connection) -> None:
    """Run the migrations that are missing, one after the other."""
    from alembic import command

    command.upgrade(alembic_config(connection), "head")


def _upgrade(connection: Connection) -> None:
    schema, tables = SCHEMA.read_text(), inspect(connection).get_table_names()
    if not tables and connection.dialect.name == "sqlite":
        for statement in _statements(schema):
            connection.exec_driver_sql(statement)
    elif _revisions(connection, tables) != _REVISION.findall(schema):
        migrate(connection)


def _revisions(connection: Connection, tables: list[str]) -> list[str]:
    if "alembic_version" not in tables:
        return []
    return list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())


def _statements(script: str) -> Iterator[str]:
    """Its statements, of which those that make triggers have semicolons of their own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
