"""The error tree. Each class is one `code` on the wire (RFC 9457 problem+json); the SDK raises it again.

HutchError
├── InvalidRequest            400 invalid_request        a field is wrong: `field`, `value`, what would be right
│   ├── UnknownTemplate       400 unknown_template
│   ├── UnknownAgent          400 unknown_agent
│   ├── MissingLlmKey         400 missing_llm_key
│   ├── InvalidPath           400 invalid_path           relative where absolute is needed, a directory, outside
│   ├── InvalidTemplate       400 invalid_template       a template.toml is wrong: `file`, `field`
│   ├── InvalidArchive        400 invalid_archive        an exported snapshot is damaged or was made to harm
│   └── InvalidPolicy         400 invalid_policy         a rule of a network policy is wrong: `field`, `value`
├── Unauthorized              401 unauthorized
├── NotFound                  404 not_found
│   ├── SandboxNotFound       404 sandbox_not_found
│   ├── TaskNotFound          404 task_not_found
│   ├── ExecNotFound          404 exec_not_found
│   ├── UploadNotFound        404 upload_not_found
│   ├── SnapshotNotFound      404 snapshot_not_found
│   ├── VolumeNotFound        404 volume_not_found
│   └── FileMissing           404 file_not_found
├── Conflict                  409 conflict
│   ├── SandboxNotRunning     409 sandbox_not_running
│   ├── AlreadyExists         409 already_exists
│   ├── TemplateNotBuilt      409 template_not_built     the template is known, its image is not there
│   ├── SnapshotIncompatible  409 snapshot_incompatible  of another runtime version, CPU or image: `what`, both sides
│   └── IdempotencyConflict   409 idempotency_conflict   same key, other body; or the first is still running
├── PayloadTooLarge           413 payload_too_large
├── LimitReached              429 limit_reached          a sandbox or node limit; `limit` names it
├── LlmAuthFailed             400 llm_auth_failed        the provider refused the key
├── InputFailed               400 input_failed           an input URL or git repository could not be fetched
├── DiskFull                  507 disk_full              of the sandbox or of the node
├── NodeUnavailable           503 node_unavailable       retryable
├── GuestUnavailable          503 guest_unavailable      the sandbox's PID 1 does not answer; retryable
│   └── PortClosed            502 port_closed            nothing in the sandbox listens on the port
├── BootFailed                500 boot_failed
├── FreezeFailed              500 freeze_failed          no snapshot was made; the sandbox runs on
├── ThawFailed                500 thaw_failed            the snapshot is as it was, nothing was started
├── SnapshotCorrupt           500 snapshot_corrupt       a file of it is missing or changed: `snapshot`, `file`
├── TemplateBuildFailed       500 template_build_failed  a step of a template's build failed; `log` has its last lines
├── RequestTimeout            504 request_timeout        retryable
├── ServerStopping            503 server_stopping        retryable: a stream was cut by a restart; read on
└── InternalError             500 internal_error
"""

from __future__ import annotations

from typing import Any, ClassVar


class HutchError(Exception):
    """Base of all errors. `detail` says what happened, `hint` the way out, `extra` further members (JSON values)."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str | None] = None

    def __init__(self, detail: str, *, hint: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint if hint is not None else self.default_hint
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.detail} ({self.hint})" if self.hint else self.detail

    def to_problem(self) -> dict[str, Any]:
        """The RFC 9457 body. `extra` members stand beside the standard ones."""
        problem: dict[str, Any] = {
            "type": f"https://hutch.dev/errors/{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.http_status,
            "code": self.code,
            "detail": self.detail,
            "retryable": self.retryable,
        }
        if self.hint:
            problem["hint"] = self.hint
        for key, value in self.extra.items():
            problem.setdefault(key, value)
        return problem


class InternalError(HutchError):
    """Our own fault."""

    default_hint = "This is a bug in Hutch: look in the server's log for the request id."


class InvalidRequest(HutchError):
    """A field of the request is wrong; `extra` has `field` and, where it is short, `value`."""

    code = "invalid_request"
    http_status = 400


class UnknownTemplate(InvalidRequest):
    code = "unknown_template"
    default_hint = "`hutch template ls` lists the templates."


class UnknownAgent(InvalidRequest):
    code = "unknown_agent"


class MissingLlmKey(InvalidRequest):
    code = "missing_llm_key"
    default_hint = "Give `llm_key`, the key of the agent's model provider."


class InvalidPath(InvalidRequest):
    code = "invalid_path"


class InvalidTemplate(InvalidRequest):
    code = "invalid_template"


class InvalidArchive(InvalidRequest):
    code = "invalid_archive"
    default_hint = "Export the snapshot again, and check that the file arrived whole."


class InvalidPolicy(InvalidRequest):
    code = "invalid_policy"
    default_hint = "A rule is `[tcp://|udp://]name|*.name|address|network[:ports]`."


class Unauthorized(HutchError):
    code = "unauthorized"
    http_status = 401
    default_hint = "Send `Authorization: Bearer hk_...`; `hutch up` prints the first key once."


class NotFound(HutchError):
    code = "not_found"
    http_status = 404


class SandboxNotFound(NotFound):
    code = "sandbox_not_found"
    default_hint = "It may have ended: `hutch ps --all` lists ended sandboxes."


class TaskNotFound(NotFound):
    code = "task_not_found"


class ExecNotFound(NotFound):
    code = "exec_not_found"


class UploadNotFound(NotFound):
    code = "upload_not_found"
    default_hint = "Uploads are kept for a day; upload again."


class SnapshotNotFound(NotFound):
    code = "snapshot_not_found"


class VolumeNotFound(NotFound):
    """There is none of this name or id."""

    code = "volume_not_found"


class FileMissing(NotFound):
    code = "file_not_found"


class Conflict(HutchError):
    code = "conflict"
    http_status = 409


class SandboxNotRunning(Conflict):
    code = "sandbox_not_running"


class AlreadyExists(Conflict):
    code = "already_exists"


class TemplateNotBuilt(Conflict):
    code = "template_not_built"


class SnapshotIncompatible(Conflict):
    code = "snapshot_incompatible"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"
    default_hint = "Use a new Idempotency-Key for a different request; for the same one, retry in a moment."


class PayloadTooLarge(HutchError):
    code = "payload_too_large"
    http_status = 413


class LimitReached(HutchError):
    code = "limit_reached"
    http_status = 429


class LlmAuthFailed(HutchError):
    code = "llm_auth_failed"
    http_status = 400
    default_hint = "The model provider refused the key: check that it is valid and of the right provider."


class InputFailed(HutchError):
    code = "input_failed"
    http_status = 400


class DiskFull(HutchError):
    code = "disk_full"
    http_status = 507


class NodeUnavailable(HutchError):
    code = "node_unavailable"
    http_status = 503
    retryable = True
    default_hint = "The node daemon does not answer; `hutch doctor` says why. Running sandboxes are not affected."


class GuestUnavailable(HutchError):
    code = "guest_unavailable"
    http_status = 503
    retryable = True


class PortClosed(GuestUnavailable):
    code = "port_closed"
    http_status = 502
    retryable = False


class BootFailed(HutchError):
    code = "boot_failed"


class FreezeFailed(HutchError):
    code = "freeze_failed"


class ThawFailed(HutchError):
    code = "thaw_failed"


class SnapshotCorrupt(HutchError):
    """Stored bytes are not what was written; `extra` may have `snapshot` and `file`."""

    code = "snapshot_corrupt"
    default_hint = "The disk or a person changed the node's snapshot files; other snapshots are not affected."


class TemplateBuildFailed(HutchError):
    code = "template_build_failed"


class RequestTimeout(HutchError):
    code = "request_timeout"
    http_status = 504
    retryable = True


class ServerStopping(HutchError):
    code = "server_stopping"
    http_status = 503
    retryable = True
    default_hint = "The server is restarting; connect again and read on from the last offset. Nothing is lost."


class ServerUnavailable(HutchError):
    code = "server_unavailable"
    http_status = 503
    retryable = True
    default_hint = "Is `hutch up` running? `hutch doctor` says what is wrong."


def _tree(cls: type[HutchError]) -> list[type[HutchError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _tree(sub))]


BY_CODE: dict[str, type[HutchError]] = {cls.code: cls for cls in _tree(InternalError) + _tree(HutchError)[1:]}


def from_problem(problem: dict[str, Any]) -> HutchError:
    """The error that a problem+json body stands for (an `InternalError` for a code this version does not know)."""
    cls = BY_CODE.get(str(problem.get("code")), InternalError)
    known = {"type", "title", "status", "code", "detail", "retryable", "hint"}
    extra = {key: value for key, value in problem.items() if key not in known and key.isidentifier()}
    return cls(
        str(problem.get("detail") or problem.get("title") or "unknown error"),
        hint=problem.get("hint"),
        **extra,
    )
