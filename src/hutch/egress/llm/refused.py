"""A call that the gateway answers itself."""

from __future__ import annotations


class Refused(Exception):
    """`status` and `message` become an error in the provider's own shape; `field` is that of the request which is to
    be changed."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
