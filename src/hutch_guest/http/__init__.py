"""A small HTTP/1.1 server on asyncio: keep-alive, chunked both ways, everything bounded."""
