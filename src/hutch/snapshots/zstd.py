"""zstd on bytes that may have been changed, or made to harm."""

from __future__ import annotations

import zstandard


class Damaged(Exception):
    """Bytes are not what was written; the text says in what way."""


def decompress(frame: bytes, size: int) -> bytes:
    """Exactly `size` bytes. Raises `Damaged`; never takes more memory than that, whatever the frame claims."""
    try:
        if zstandard.frame_content_size(frame) != size:
            raise Damaged("a compressed part does not have the size that it should have")
        data = zstandard.ZstdDecompressor(max_window_size=max(size, 8 << 20)).decompress(
            frame, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Damaged("a compressed part does not decompress") from error
    if len(data) != size:
        raise Damaged("a compressed part is shorter than it should be")
    return data
