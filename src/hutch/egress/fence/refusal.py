"""Why something is not let through."""

from __future__ import annotations


class Refused(Exception):
    """The message is for a person: it completes "not let through: ..."."""
