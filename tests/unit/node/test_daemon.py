"""What the daemon makes of its settings."""

from __future__ import annotations

from pathlib import Path

from hutch.node.daemon import Daemon
from hutch.settings import Settings


async def test_the_store_of_snapshots_has_the_operators_limits(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "d", run_dir=tmp_path / "r", snapshot_cache=1234, snapshot_cpu_share=0.25)
    daemon = Daemon(settings)
    daemon._home.directory.mkdir(parents=True)
    store = await daemon._open_store()
    try:
        assert (store._parts.hot.limit, store._parts.pace._share) == (1234, 0.25)
    finally:
        await store.close()
