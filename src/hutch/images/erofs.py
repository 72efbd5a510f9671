"""EROFS images: what the sandbox kernel maps, without a helper process, and with its pages shared by all sandboxes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hutch.images.command import LineSink
from hutch.images.layers import Stack

FORMAT = 1
"""Raise it when the options below change."""

_OPTIONS = ("--quiet", "-d0", "-E", "noinline_data")
"""gVisor maps file contents page by page: inline tails and compression cannot be mapped."""


async def make_image(stack: Stack, image: Path, log: LineSink) -> None:
    """Write the layers of `stack` into one durable image file."""
    await stack.read(["mkfs.erofs", *_OPTIONS, str(image), "."], what="making the image", log=log)
    await asyncio.to_thread(_settle, image)


def _settle(image: Path) -> None:
    image.chmod(0o644)
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
