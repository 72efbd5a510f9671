"""A small image, slots of a node of the suite's own, and runtimes; all of it is gone afterwards, which is checked."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hutch.images.cache import Cache
from hutch.images.guest import build_python, source
from hutch.images.host import debian_sources
from hutch.model import GUEST_PORT, DenyAll, Resources, new_id
from hutch.network.base import Services
from hutch.network.slots import LinuxSlotPool
from hutch.runtime.base import Frozen, Handle, Runtime, SandboxSpec
from hutch.runtime.gvisor import GvisorRuntime
from hutch.settings import get_settings
from tests.leaks import assert_clean

RUNTIMES: dict[str, Callable[[Path, str], Runtime]] = {
    "gvisor": lambda state, node: GvisorRuntime("runsc", state, node),
}
SMALL = Resources(cpus=2, memory_mib=256, disk_mib=128, pids=64)
ANSWER_TIMEOUT = 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "needs root" if os.geteuid() != 0 else "needs runsc" if shutil.which("runsc") is None else ""
    for item in items:
        if missing and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of a few MiB: the guest's carried Python, and `inside.py`."""

    async def log(line: str) -> None:
        print(line)

    async def python() -> Path:
        return await build_python(Cache(get_settings().cache_dir), await debian_sources(), log)

    root = tmp_path_factory.mktemp("image") / "root"
    shutil.copytree(asyncio.run(python()), root, symlinks=True)
    for name in ("proc", "sys", "dev", "tmp", "etc", "home/user"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    app = root / ".hutch" / "app"
    shutil.copytree(source(), app / "hutch_guest", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("inside.py"), app / "run")
    file = root.with_name("image.erofs")
    subprocess.run(["mkfs.erofs", "--quiet", "-d0", "-E", "noinline_data", file, root], check=True, capture_output=True)
    return file


@dataclass
class Host:
    """One node's worth of runtime and slots, and short cuts to use them."""

    image: Path
    node: str
    root: Path
    make: Callable[[Path, str], Runtime]
    slots: LinuxSlotPool
    runtime: Runtime = field(init=False)
    addresses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runtime = self.fresh()

    def fresh(self) -> Runtime:
        """The runtime as a daemon that has just started would make it."""
        return self.make(self.root / "state", self.node)

    async def spec(self, resources: Resources = SMALL) -> SandboxSpec:
        id = new_id("sbx")
        slot = await self.slots.acquire(id, DenyAll())
        self.addresses[id] = slot.guest_address
        return SandboxSpec(
            id=id,
            image=self.image,
            resources=resources,
            slot=slot,
            hostname="box",
            directory=self.root / id,
            env={"HELLO": "from the host"},
        )

    async def boot(self, resources: Resources = SMALL) -> Handle:
        return await self.runtime.boot(await self.spec(resources))

    async def put_away(self, handle: Handle, into: Path) -> Frozen:
        """Freeze it, and let nothing else be left."""
        frozen = await self.runtime.freeze(handle, into, keep_running=False)
        await self.runtime.kill(handle.id, handle.directory)
        return frozen

    async def run(self, handle: Handle, code: str, timeout: float = ANSWER_TIMEOUT) -> str:
        """Run Python inside, and give back what it printed."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    reader, writer = await asyncio.open_connection(self.addresses[handle.id], GUEST_PORT)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            try:
                writer.write(b"%d\n" % len(code.encode()) + code.encode())
                return (await reader.read()).decode().strip()
            finally:
                writer.close()

    async def close(self) -> None:
        for id in await self.runtime.leftovers():
            await self.runtime.kill(id, self.root / id)
        await self.slots.remove_all()
        shutil.rmtree(self.root)
        assert_clean(self.node, self.root)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory with a short path: it holds Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=sorted(RUNTIMES))
async def host(request: pytest.FixtureRequest, image: Path, root: Path) -> AsyncIterator[Host]:
    node = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))
    services = Services(llm=1, identity=4, tcp=2, dns=3, uid=61184, broker=61185, resolver=None)
    slots = LinuxSlotPool(node, "10.200.0.0/14", 1, services)
    await slots.start({})
    host = Host(image, node, root, RUNTIMES[request.param], slots)
    try:
        yield host
    finally:
        await host.close()
