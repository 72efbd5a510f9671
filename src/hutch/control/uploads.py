"""Files sent ahead of a task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from hutch.control.context import Context
from hutch.control.types import Upload
from hutch.errors import InvalidRequest
from hutch.model import new_id
from hutch.store.uploads import UploadRow

_KEPT = 86400.0


class Uploader:
    """Stores uploads, for a day."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def store(self, chunks: AsyncIterator[bytes], org: str) -> Upload:
        """The record first, without a size; it is no upload until it has one, and what a crash leaves expires."""
        now = time.time()
        row = UploadRow(new_id("upl"), org, 0, now, now + _KEPT)
        store, blobs = self._context.store.uploads, self._context.blobs
        await store.add(row)
        try:
            size = await blobs.put(row.blob, chunks, self._context.settings.max_upload)
            if size == 0:
                raise InvalidRequest("the upload is empty", hint="Send a tar stream as the body.")
            await store.complete(row.id, size)
        except BaseException:
            await asyncio.shield(self._discard(row))
            raise
        return Upload(row.id, size, datetime.fromtimestamp(row.expires_at, UTC))

    async def _discard(self, row: UploadRow) -> None:
        await self._context.blobs.delete(row.blob)
        await self._context.store.uploads.forget(row.id)
