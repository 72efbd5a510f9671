"""nftables in this process: a thin binding of libnftables. One command is 0.1 ms; forking `nft` is 3 ms."""

from __future__ import annotations

import ctypes
import json
from functools import cache
from typing import Any

LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4


class NftError(Exception):
    """The kernel or the library has refused a command; nothing of it was done."""


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NftError(f"{LIBRARY} is not there: on Debian `apt-get install nftables`") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    return library


class Nft:
    """A library context. Use it from one thread at a time."""

    def __init__(self) -> None:
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        if not self._context:
            raise NftError("libnftables has no memory")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Run commands as one transaction: all of them happen, or none. Raises `NftError`."""
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(errors.decode(errors="replace").strip() or "nftables gave no reason")
        return bytes(output).decode(errors="replace")

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects that a `list` command finds. Raises `NftError`."""
        self._library.nft_ctx_output_set_flags(self._context, ctypes.c_uint(_OUTPUT_JSON))
        try:
            output = self.run(command)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, ctypes.c_uint(0))
        objects: list[dict[str, Any]] = json.loads(output)["nftables"] if output.strip() else []
        return objects

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p()
