"""Everything the server must remember: tables, small repositories (one a noun), migrations."""

from hutch.store.engine import Database
from hutch.store.keys import KeyRecord, Keys
from hutch.store.store import Store
from hutch.store.tables import DEFAULT_ORG

__all__ = ["DEFAULT_ORG", "Database", "KeyRecord", "Keys", "Store"]
