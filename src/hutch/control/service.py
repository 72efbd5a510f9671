"""`Control`: the facade that the API calls. (Signatures first; the bodies follow.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from hutch.control.exec import Execs
from hutch.control.files import Files
from hutch.control.types import Download, Idempotency, Page, Upload
from hutch.model import CreateSandbox, Event, NodeInfo, Sandbox, SandboxState, Task, TaskState, TemplateInfo
from hutch.settings import Settings
from hutch.store import DEFAULT_ORG, Store


class Control:
    """Sandboxes and tasks, for one server process.

    Every method that takes an id raises the matching `NotFound` when the id is unknown *in that org*. Methods that
    give a stream are coroutines that check everything first and return the iterator after: errors come before the
    first byte of an answer.
    """

    store: Store
    """Open between `start` and `stop`; identity uses `store.keys`."""
    execs: Execs
    files: Files

    def __init__(self, settings: Settings) -> None: ...

    async def start(self) -> None:
        """Open the database (migrating it), take over what an earlier process left, start the background work."""

    async def stop(self) -> None:
        """Stop the background work; sandboxes and agents go on. A second call does nothing."""

    async def create(
        self, request: CreateSandbox, *, org: str = DEFAULT_ORG, idempotency: Idempotency | None = None
    ) -> Sandbox:
        """A plain sandbox: returns when it is `running`. With an agent: returns at once, with `task` set."""
        raise NotImplementedError

    async def get(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sandbox:
        """The sandbox, with fresh figures of use."""
        raise NotImplementedError

    async def list(
        self,
        *,
        org: str = DEFAULT_ORG,
        states: Sequence[SandboxState] = (),
        labels: Mapping[str, str] | None = None,
        include_ended: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Sandbox]:
        """Newest first. Ended ones only with `include_ended` or where `states` names them. `InvalidRequest` on a bad
        cursor."""
        raise NotImplementedError

    async def delete(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> None:
        """Destroy it, in any state; its task, if one runs, is cancelled. No error when it has ended already."""

    async def task(self, task_id: str, *, org: str = DEFAULT_ORG) -> Task:
        raise NotImplementedError

    async def tasks(
        self,
        *,
        org: str = DEFAULT_ORG,
        states: Sequence[TaskState] = (),
        sandbox_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Task]:
        raise NotImplementedError

    async def cancel(self, task_id: str, *, org: str = DEFAULT_ORG) -> Task:
        """Ask the task to stop (outputs are still collected). No error when it has ended already."""
        raise NotImplementedError

    async def events(self, task_id: str, *, start: int = 1, limit: int = 1000, org: str = DEFAULT_ORG) -> Sequence[Event]:
        """Stored events from offset `start` (inclusive)."""
        raise NotImplementedError

    async def follow(self, task_id: str, *, start: int = 1, org: str = DEFAULT_ORG) -> AsyncIterator[Event]:
        """Events from offset `start` as they come; ends after the `result` event."""
        raise NotImplementedError

    async def outputs(self, task_id: str, *, org: str = DEFAULT_ORG) -> Download:
        """The artifact as a tar. `NotFound` while there is none."""
        raise NotImplementedError

    async def output_file(self, task_id: str, path: str, *, org: str = DEFAULT_ORG) -> Download:
        """One file of the artifact. `FileMissing` when it is not in there."""
        raise NotImplementedError

    async def upload(self, chunks: AsyncIterator[bytes], *, org: str = DEFAULT_ORG) -> Upload:
        """Store a tar stream for a later `inputs`."""
        raise NotImplementedError

    async def templates(self) -> Sequence[TemplateInfo]:
        raise NotImplementedError

    async def build_template(self, name: str, *, force: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Build messages as in the node's API: log, progress, done, error."""
        raise NotImplementedError

    async def node_info(self) -> NodeInfo:
        raise NotImplementedError
