"""`Store`: the database and its repositories."""

from __future__ import annotations

from hutch.store.audit import Audit
from hutch.store.bookmarks import Bookmarks
from hutch.store.e2b import E2bSandboxes
from hutch.store.e2b_secrets import E2bSecrets
from hutch.store.engine import Database
from hutch.store.events import Events
from hutch.store.idempotency import IdempotencyKeys
from hutch.store.identity_keys import IdentityKeys
from hutch.store.keys import Keys
from hutch.store.migrate import upgrade
from hutch.store.nodes import NodeCursors
from hutch.store.policies import Policies
from hutch.store.readers import Readers
from hutch.store.sandboxes import Sandboxes
from hutch.store.secrets import Secrets
from hutch.store.spending import Spending
from hutch.store.tasks import Tasks
from hutch.store.template_files import TemplateFiles
from hutch.store.template_layers import TemplateLayers
from hutch.store.template_logs import TemplateLogs
from hutch.store.templates import Templates
from hutch.store.uploads import Uploads
from hutch.store.volumes import Volumes


class Store:
    """Open it with `await Store.open(url)`; close it with `close`.

    Methods of the repositories that take a `connection` are parts of a transaction that the caller has opened with
    `store.database.write()` (or `read()`); the others are transactions of their own.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.audit = Audit(database)
        self.keys = Keys(database)
        self.identity_keys = IdentityKeys(database)
        self.sandboxes = Sandboxes(database)
        self.e2b = E2bSandboxes(database)
        self.e2b_secrets = E2bSecrets(database)
        self.tasks = Tasks(database)
        self.events = Events(database)
        self.readers = Readers(database)
        self.bookmarks = Bookmarks(database)
        self.uploads = Uploads(database)
        self.volumes = Volumes(database)
        self.templates = Templates(database)
        self.template_logs = TemplateLogs(database)
        self.template_layers = TemplateLayers(database)
        self.template_files = TemplateFiles(database)
        self.idempotency = IdempotencyKeys(database)
        self.spending = Spending(database)
        self.secrets = Secrets(database)
        self.policies = Policies(database)
        self.cursors = NodeCursors(database)

    @classmethod
    async def open(cls, url: str) -> Store:
        """Connect and bring the schema up to date."""
        database = Database(url)
        try:
            await upgrade(database)
        except BaseException:
            await database.close()
            raise
        return cls(database)

    async def close(self) -> None:
        await self.audit.close()
        await self.database.close()
