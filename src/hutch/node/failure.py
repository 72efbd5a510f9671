"""What callers are told of a start that went wrong."""

from __future__ import annotations

import errno

import structlog

from hutch.errors import DiskFull, HutchError

log = structlog.get_logger("hutch.node")


def as_hutch(error: Exception, failure: type[HutchError], sandbox: str, what: str) -> HutchError:
    """The error itself where it is one of ours, `DiskFull` for a full disk, else `failure` with `what`; and then the
    log has the traceback."""
    if isinstance(error, HutchError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("this node's disk is full")
    log.error("start failed", what=what, sandbox=sandbox, exc_info=error)
    return failure(f"{what}: {error}"[:300], hint="The node's log has the details.")
