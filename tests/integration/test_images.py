"""Real builds: Debian's packages, root file systems, EROFS images, booted once in gVisor to see what is inside."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.errors import TemplateBuildFailed, TemplateNotBuilt
from hutch.images import Done, ImageStore, Log, Progress
from hutch.settings import Settings

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

RESOURCES = "[resources]\ncpus = 1\nmemory_mib = 256\ndisk_mib = 256\npids = 64\n"
Events = list[Log | Progress | Done]


class Workshop:
    """A cache and a templates directory of these tests' own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipes = root / "templates"
        self.cache = root / "cache"
        self.recipes.mkdir()
        self.settings = Settings(cache_dir=self.cache, templates_dir=self.recipes)
        self.store = ImageStore(self.settings)

    def write(self, name: str, text: str) -> str:
        (self.recipes / name).mkdir(exist_ok=True)
        (self.recipes / name / "template.toml").write_text(text + RESOURCES)
        return name

    async def build(self, name: str, *, force: bool = False) -> Events:
        return [event async for event in self.store.build(name, force=force)]

    def start(self, name: str) -> subprocess.Popen[str]:
        """A build in a process of its own."""
        env = {**os.environ, "HUTCH_CACHE_DIR": str(self.cache), "HUTCH_TEMPLATES_DIR": str(self.recipes)}
        command = [sys.executable, "-m", "hutch.images", "build", "--verbose", name]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def builds(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "rootfs").iterdir() if path.is_dir())

    def leftovers(self) -> list[str]:
        """What is left in temporary places, mounted, or running."""
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.cache) in line]
        inside = [f"pid {pid}" for pid in _pids() if str(self.cache) in _command(pid)]
        return [path.name for path in (self.cache / "tmp").iterdir()] + mounts + inside


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    root = Path(tempfile.mkdtemp(prefix="hutch-images-", dir="/var/tmp"))  # not a tmpfs, as /tmp may be
    try:
        shop = Workshop(root)
        shop.write("tiny", 'description = "the least there is"\npackages = ["sudo"]\n')
        asyncio.run(shop.build("tiny"))
        yield shop
    finally:
        shutil.rmtree(root)


def boot(image: Path, script: str) -> str:
    """What a shell script prints as PID 1 of a sandbox on the image."""
    with tempfile.TemporaryDirectory(prefix="hib-", dir="/tmp") as directory:
        bundle = Path(directory)
        (bundle / "empty").mkdir()
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": {
                    kind: ["CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"]
                    for kind in ("bounding", "effective", "permitted")
                },
            },
            "root": {"path": str(bundle / "empty")},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
            "annotations": {
                "dev.gvisor.spec.rootfs.source": str(image),
                "dev.gvisor.spec.rootfs.type": "erofs",
                "dev.gvisor.spec.rootfs.overlay": "memory",
            },
        }
        (bundle / "config.json").write_text(json.dumps(config))
        flags = [f"--root={bundle}/state", "--platform=systrap", "--network=none", "--ignore-cgroups"]
        command = ["runsc", *flags, "run", "-bundle", str(bundle), "hutch-image-test"]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def test_the_image_has_its_user_its_tmp_and_no_trace_of_the_build(workshop: Workshop) -> None:
    script = """
    set -e
    stat -c '%a %U:%G %n' /tmp /home/user /root /etc/sudoers.d/hutch /usr/bin/sudo /.hutch/template.json
    id user
    touch /home/user/x
    ls -A /tmp /run /dev/hutch-nothing 2>/dev/null || true
    grep tmpfs /proc/mounts | grep ' /tmp ' || true
    cat /etc/resolv.conf
    find /var/lib/apt/lists /var/cache/apt -type f ! -name lock
    """
    said = boot(workshop.store.resolve("tiny").path, script).splitlines()
    assert "1777 root:root /tmp" in said
    assert "755 user:user /home/user" in said or "700 user:user /home/user" in said
    assert "440 root:root /etc/sudoers.d/hutch" in said
    assert "777 root:root /usr/bin/sudo" in said, "a link to the guest's own, as gVisor knows no setuid"
    assert "644 root:root /.hutch/template.json" in said
    assert "uid=1000(user) gid=1000(user) groups=1000(user)" in said
    assert ".hutch" in said, "/tmp must not look empty to gVisor"
    assert not any(" /tmp tmpfs" in line for line in said), said
    assert "nameserver 169.254.169.253" in said
    assert not any(line.startswith(("/var/lib/apt", "/var/cache/apt")) for line in said)
    assert "hutch-build" not in said


def test_the_carried_python_runs_the_guest_and_all_its_extensions_load(workshop: Workshop) -> None:
    script = """
    set -e
    python='/.hutch/lib/ld-linux-x86-64.so.2 --library-path /.hutch/lib /.hutch/bin/python3 -I -S -B'
    $python -c "
import os, sys, importlib.util
names = [f.split('.')[0] for f in os.listdir('/.hutch/lib/python3.11/lib-dynload')]
for name in names: importlib.import_module(name)
import asyncio, http.server, json, pty, subprocess, tarfile, ctypes, hashlib, fcntl, termios
sys.path.insert(0, '/.hutch/app')
import hutch_guest.main
print(sys.prefix, hutch_guest.main.__cached__, len(names) > 10)
assert importlib.util.cache_from_source(asyncio.__file__) == asyncio.__cached__ and os.path.exists(asyncio.__cached__)
"
    $python -c "
import sys
sys.path.insert(0, '/.hutch/app')
import run
bundle = run.Bundle('/.hutch/app/bundle')
with bundle:
    from hutch_guest.lean import import_all
    import_all(True)
import asyncio, hutch_guest.server
print(asyncio.__spec__.loader, asyncio.__file__, hutch_guest.server.__spec__.loader, asyncio.tasks.Task)
print(sorted(name for name in bundle._modules if name not in sys.modules))
import tarfile, hutch_guest.api.files
print(type(tarfile.__spec__.loader).__name__)
"
    head -c 2 /.hutch/app/run | od -An -tx1
    ls /usr/bin/python3 2>/dev/null || echo none of its own
    cat /.hutch/template.json
    """
    said = boot(workshop.store.resolve("tiny").path, script).splitlines()
    assert said[0] == "/.hutch /.hutch/app/hutch_guest/__pycache__/main.cpython-311.pyc True"
    assert said[1] == "None /.hutch/lib/python3.11/asyncio/__init__.py None <class '_asyncio.Task'>"
    assert said[2] == "['hutch_guest.disk', 'hutch_guest.main']", "the bundle has what a start imports and nothing else"
    assert said[3] == "SourceFileLoader", "what a start does not need is imported as usual"
    assert said[4].split() == ["a7", "0d"], "the first file is compiled"
    assert said[5] == "none of its own"
    assert json.loads(said[6]) == {"name": "tiny", "user": "user", "workdir": "/home/user", "env": {}}


async def test_the_second_build_does_nothing_at_once(workshop: Workshop) -> None:
    before = workshop.store.resolve("tiny")
    start = time.monotonic()
    (only,) = await workshop.build("tiny")
    assert time.monotonic() - start < 1
    assert isinstance(only, Done)
    assert only.template.image == before.hash
    assert only.template.image_bytes == before.path.stat().st_size


async def test_a_derived_template_keeps_only_what_it_adds_and_leaves_its_base_alone(workshop: Workshop) -> None:
    (base,) = workshop.builds()
    shadow = workshop.cache / "rootfs" / base / "etc/hostname"
    before = (base, shadow.exists() and shadow.read_text())
    workshop.write(
        "derived",
        'base = "tiny"\nenv = { MARK = "seen" }\n'
        'steps = ["echo derived > /etc/hostname; rm /etc/issue; echo $MARK", "ls -d /"]\n',
    )
    events = await workshop.build("derived")
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.step for event in progress] == list(range(1, progress[0].of + 1))
    assert Log(line="seen") in events
    assert isinstance(events[-1], Done)
    (layer,) = (name for name in workshop.builds() if name != base)
    files = sum(path.is_file() for path in (workshop.cache / "rootfs" / layer).rglob("*"))
    assert files < 50
    assert before == (base, shadow.exists() and shadow.read_text())
    said = boot(workshop.store.resolve("derived").path, "cat /etc/hostname; ls /etc/issue 2>&1 || id user")
    assert "derived" in said
    assert "uid=1000" in said, "the base's whiteouts and files are in the image"


async def test_a_failing_step_tells_its_last_words_and_leaves_nothing(workshop: Workshop) -> None:
    before = workshop.builds()
    workshop.write("failing", 'base = "tiny"\nsteps = ["echo fine", "echo so sorry >&2; exit 7"]\n')
    with pytest.raises(TemplateBuildFailed, match="step 2 of template 'failing' failed with exit code 7") as caught:
        await workshop.build("failing")
    assert "so sorry" in caught.value.extra["log"]
    assert workshop.leftovers() == []
    assert workshop.builds() == before
    with pytest.raises(TemplateNotBuilt, match="hutch template build failing"):
        workshop.store.resolve("failing")


async def test_a_step_that_replaces_a_directory_by_a_link_cannot_lead_the_build_outside(workshop: Workshop) -> None:
    outside = workshop.root / "outside"
    outside.mkdir()
    link = f'base = "tiny"\nsteps = ["rm -rf /run && ln -s {outside} /run", "true"]\n'
    workshop.write("linking", link)
    with pytest.raises(TemplateBuildFailed):
        await workshop.build("linking")
    assert list(outside.iterdir()) == []
    assert workshop.leftovers() == []


async def test_who_stops_listening_stops_the_build(workshop: Workshop) -> None:
    workshop.write("abandoned", 'base = "tiny"\nsteps = ["echo begun; sleep 4711"]\n')
    events = workshop.store.build("abandoned")
    async for event in events:
        if event == Log(line="begun"):
            break
    await events.aclose()
    assert workshop.leftovers() == []
    assert not any("sleep 4711" in _command(pid) for pid in _pids())


def test_a_builder_killed_in_the_middle_leaves_nothing_that_runs_or_is_mounted(workshop: Workshop) -> None:
    name = workshop.write("killed", 'base = "tiny"\nsteps = ["[ -e /var/go ] || { echo begun; sleep 4712; }"]\n')
    with workshop.start(name) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "begun":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5
    while any("sleep 4712" in _command(pid) for pid in _pids()):
        assert time.monotonic() < deadline, "what the builder had started still runs"
        time.sleep(0.05)
    left = workshop.leftovers()
    assert len(left) == 1, f"only the temporary directory may be left: {left}"
    workshop.write("killed", 'base = "tiny"\nsteps = ["true"]\n')
    asyncio.run(workshop.build("killed"))
    assert workshop.leftovers() == []
    assert workshop.store.resolve("killed").path.exists()


def test_two_builders_at_once_build_once(workshop: Workshop) -> None:
    before = set(workshop.builds())
    name = workshop.write("twice", 'base = "tiny"\nsteps = ["sleep 1; cat /proc/sys/kernel/random/uuid > /etc/uuid"]\n')
    processes = [workshop.start(name) for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum("Waiting: another build" in text for text in said) >= 1
    assert len(set(workshop.builds()) - before) == 1
    assert workshop.leftovers() == []


async def test_force_builds_anew_and_the_old_image_stands_until_then(workshop: Workshop) -> None:
    workshop.write("forced", 'base = "tiny"\nsteps = ["cat /proc/sys/kernel/random/uuid > /etc/uuid"]\n')
    await workshop.build("forced")
    old = workshop.store.resolve("forced")
    async for event in workshop.store.build("forced", force=True):
        if not isinstance(event, Done):
            assert workshop.store.resolve("forced").hash == old.hash
    new = workshop.store.resolve("forced")
    assert new.hash != old.hash
    assert old.path.exists(), "sandboxes may still be starting from it"
    assert boot(old.path, "cat /etc/uuid") != boot(new.path, "cat /etc/uuid")


async def test_an_emptied_cache_is_built_again(workshop: Workshop) -> None:
    workshop.write("again", 'base = "tiny"\nsteps = ["true"]\n')
    await workshop.build("again")
    workshop.store.resolve("again").path.unlink()
    with pytest.raises(TemplateNotBuilt):
        workshop.store.resolve("again")
    await workshop.build("again")
    assert workshop.store.resolve("again").path.exists()
