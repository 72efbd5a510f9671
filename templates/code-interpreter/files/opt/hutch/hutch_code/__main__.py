"""The server's life: start Python, then take connections, for ever."""

from __future__ import annotations

import asyncio
import gc
import socket

from hutch_code.app import App
from hutch_guest.http.protocol import Connection

PORT = 49999


async def serve() -> None:
    """Listens only once code can run: a port that is open is ready."""
    app = App()
    await app.start()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so asyncio sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", PORT))
    listener.listen(128)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(app), sock=listener)
    gc.collect()
    gc.freeze()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
