"""The server process: from root in a closed directory to an unprivileged user that serves."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

import hutch

pytestmark = pytest.mark.root

USER = "nobody"


class Checkout:
    """A copy of the program below a directory that only root may enter, and a server that runs from it."""

    def __init__(self, mode: int) -> None:
        self.closed = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
        self.closed.chmod(mode)
        self.home = self.closed / "checkout"
        shutil.copytree(Path(hutch.__path__[0]).parent, self.home / "src")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.home / ".venv"], check=True)
        packages = next((self.home / ".venv" / "lib").glob("python*")) / "site-packages"
        (packages / "hutch.pth").write_text(f"{self.home / 'src'}\n{sysconfig.get_path('purelib')}\n")
        (self.closed / "private").write_text("root's")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Path:
        return self.closed / "run" / "api.json"

    @property
    def first_key(self) -> Path:
        return self.closed / "first-key"

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        values = {"data_dir": str(self.closed / "data"), "run_dir": str(self.closed / "run"), "port": "0"}
        values["gateway_port"] = "0"
        values |= {"server_user": USER, "first_key_file": str(self.first_key)} | settings
        environment = {f"HUTCH_{name.upper()}": value for name, value in values.items()}
        environment |= {"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": "sk-ant-of-the-caller"}
        command = [self.home / ".venv" / "bin" / "python", "-m", "hutch.api"]
        with (self.closed / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=self.closed, stdout=log, stderr=log)
        return self.process

    def wait(self) -> str:
        """The server's URL, once it has said so."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, self.log()
            with suppress(FileNotFoundError):
                address = json.loads(self.address.read_text())
                if address["pid"] == self.process.pid:  # else it is what a killed server has left
                    return str(address["url"])
            time.sleep(0.02)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.closed / "log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.closed)


@pytest.fixture(params=[0o700, 0o755], ids=["closed", "open"])
def checkout(request: pytest.FixtureRequest) -> Iterator[Checkout]:
    made = Checkout(request.param)
    try:
        yield made
    finally:
        made.close()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_serves_as_its_user_without_privileges(checkout: Checkout) -> None:
    process = checkout.start()
    url = checkout.wait()
    key = checkout.first_key.read_text().strip()
    assert stat.S_IMODE(checkout.first_key.stat().st_mode) == 0o600
    answer = httpx.get(f"{url}/v1/sandboxes", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.json()["sandboxes"] == []
    status, uid = status_of(process.pid), str(pwd.getpwnam(USER).pw_uid)
    assert json.loads(checkout.address.read_text())["pid"] == process.pid
    assert set(status["Uid"].split()) == {uid} and status["Groups"] == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0 and status["NoNewPrivs"] == "1"
    assert b"of-the-caller" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert str(checkout.closed) not in Path("/proc/mounts").read_text(), "the host sees none of the server's mounts"
    if stat.S_IMODE(checkout.closed.stat().st_mode) == 0o700:
        inside = Path(f"/proc/{process.pid}/root{checkout.closed}")
        assert sorted(path.name for path in inside.iterdir()) == ["checkout", "data", "run"]


def test_stops_at_sigterm_and_takes_its_address_back(checkout: Checkout) -> None:
    process = checkout.start()
    checkout.wait()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, checkout.log()
    assert not checkout.address.exists()


def test_starts_again_after_kill_9_with_the_same_key(checkout: Checkout) -> None:
    process = checkout.start()
    checkout.wait()
    key = checkout.first_key.read_text().strip()
    process.kill()
    process.wait()
    checkout.start()
    url = checkout.wait()
    assert httpx.get(f"{url}/v1/keys", headers={"Authorization": f"Bearer {key}"}, trust_env=False).status_code == 200
    assert checkout.first_key.read_text().strip() == key


@pytest.mark.parametrize(
    ("settings", "hint"), [({"server_user": "no-such-user"}, "useradd"), ({"host": "203.0.113.1"}, "HUTCH_HOST")]
)
def test_says_plainly_why_it_cannot_start(settings: dict[str, str], hint: str) -> None:
    checkout = Checkout(0o755)
    try:
        assert checkout.start(**settings).wait(30) == 1
        assert hint in checkout.log() and "Traceback" not in checkout.log()
    finally:
        checkout.close()


def test_code_that_the_user_may_not_read_is_named() -> None:
    checkout = Checkout(0o700)
    try:
        (checkout.home / "src" / "hutch").chmod(0o700)
        assert checkout.start().wait(30) == 1
        assert "may not read" in checkout.log() and "chmod" in checkout.log() and "Traceback" not in checkout.log()
    finally:
        checkout.close()
