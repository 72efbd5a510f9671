"""Cursors of lists that are newest first."""

from __future__ import annotations

import base64
import binascii

from sqlalchemy import ColumnElement, Table, and_, or_

from hutch.errors import InvalidRequest


def make_cursor(created_at: float, row_id: str) -> str:
    """The cursor after this row."""
    return base64.urlsafe_b64encode(f"{created_at!r}:{row_id}".encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[float, str]:
    """`created_at` and id of the row that a cursor comes after. Raises `InvalidRequest` for one that we never made."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_text, _, row_id = text.partition(":")
        created_at = float(created_text)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest("unknown cursor", field="cursor", hint="Give `next_cursor` of an earlier page.") from error
    if not row_id or created_at != created_at:
        raise InvalidRequest("unknown cursor", field="cursor", hint="Give `next_cursor` of an earlier page.")
    return created_at, row_id


def after_cursor(table: Table, cursor: str) -> ColumnElement[bool]:
    """The condition of the rows that follow the cursor, newest first. Raises `InvalidRequest`."""
    created_at, row_id = read_cursor(cursor)
    earlier = table.c.created_at < created_at
    return or_(earlier, and_(table.c.created_at == created_at, table.c.id < row_id))
