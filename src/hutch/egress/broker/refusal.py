"""Why something is not let through."""

from __future__ import annotations


class Refused(Exception):
    """The message is for a person: it completes "not let through: ..."; `status` is what the program gets."""

    def __init__(self, status: int, reason: str, secret: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.secret = secret


class Misplaced(Refused):
    """A placeholder where it does not belong."""

    def __init__(self, secret: str, where: str) -> None:
        super().__init__(403, f"the placeholder of {secret} stands in {where}: it is not for there", secret)
