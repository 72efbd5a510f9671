"""What a Python kernel is asked, in a file of memory that it shares with the server. What a signal's handler raises can
cut a reader at any point: it reads again, and nothing is lost, as it would be of a stream."""

from __future__ import annotations

import os

_HEAD = 32


class Mailbox:
    """One request at a time, with a number. What has another number than before is new."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def new(cls) -> Mailbox:
        """An empty one, with number 0."""
        return cls(os.memfd_create("requests"))

    def put(self, number: int, request: bytes) -> None:
        """The number last: whoever sees it finds the request whole."""
        os.ftruncate(self.descriptor, _HEAD)
        at = _HEAD
        while request:
            written = os.pwrite(self.descriptor, request, at)
            request, at = request[written:], at + written
        os.pwrite(self.descriptor, b"%-*d" % (_HEAD, number), 0)

    def number(self) -> int:
        """Of the request that is in it."""
        return int(os.pread(self.descriptor, _HEAD, 0) or 0)

    def request(self) -> bytes:
        """The one that `number` told of."""
        found = bytearray()
        while part := os.pread(self.descriptor, 1 << 20, _HEAD + len(found)):
            found += part
        return bytes(found)

    def close(self) -> None:
        """This end of it."""
        os.close(self.descriptor)
