"""What can go wrong for a caller. `code` is stable and the same as in `hutch.errors`; `status` is the HTTP one."""

from __future__ import annotations

import errno


class GuestError(Exception):
    """Base of all errors that are told to the caller as they are."""

    code = "internal_error"
    status = 500

    def __init__(self, message: str, **extra: object) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra

    def to_json(self) -> dict[str, object]:
        """The body of the answer on our own surface."""
        return {"code": self.code, "message": self.message, **self.extra}


class InvalidRequest(GuestError):
    code = "invalid_request"
    status = 400


class InvalidPath(InvalidRequest):
    code = "invalid_path"


class Unauthorized(GuestError):
    code = "unauthorized"
    status = 401


class NotFound(GuestError):
    code = "not_found"
    status = 404


class FileMissing(NotFound):
    code = "file_not_found"


class ExecNotFound(NotFound):
    code = "exec_not_found"


class PortClosed(GuestError):
    code = "port_closed"
    status = 502


class MethodNotAllowed(GuestError):
    code = "method_not_allowed"
    status = 405


class Conflict(GuestError):
    code = "conflict"
    status = 409


class AlreadyExists(Conflict):
    code = "already_exists"


class PayloadTooLarge(GuestError):
    code = "payload_too_large"
    status = 413


class RangeNotSatisfiable(GuestError):
    code = "range_not_satisfiable"
    status = 416


class LimitReached(GuestError):
    code = "limit_reached"
    status = 429


class DiskFull(GuestError):
    code = "disk_full"
    status = 507


_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_BAD_PATH = frozenset(
    {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EPERM, errno.EACCES}
    | {errno.EROFS, errno.ENXIO, errno.EBUSY, errno.EXDEV, errno.ETXTBSY, errno.ENOTEMPTY}
)


def from_os_error(error: OSError, path: str) -> GuestError:
    """The error a caller should see for a failed call on `path`."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        return DiskFull(f"no space left in the sandbox for '{path}'")
    if error.errno == errno.ENOENT:
        return FileMissing(f"path '{path}' does not exist")
    if error.errno == errno.EEXIST:
        return AlreadyExists(f"path '{path}' already exists")
    if error.errno in _BAD_PATH:
        return InvalidPath(f"path '{path}': {reason}")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return LimitReached(f"path '{path}': {reason}")
    return GuestError(f"path '{path}': {reason}")
