"""A node with a fence, a sandbox on it, and an internet that the test makes: one namespace with public addresses."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.node_host import NodeHost

HERE = Path(__file__).parent
_OWN = 100 + secrets.randbelow(150)
"""Of this process: tests that run side by side have internets of their own."""
RESOLVER, OTHER_RESOLVER = (f"25.25.{_OWN}.{last}" for last in (53, 54))
"""The node's name server, and one that says of some names what stands in `elsewhere`."""
GOOD, EVIL, SHARED = (f"25.25.{_OWN}.{last}" for last in (10, 66, 20))
PRIVATE = f"10.98.{_OWN}.25"
METADATA = "169.254.169.254"
CLIENT = "/tmp/client.py"
TOKEN = "ghp_R3alValue0fTheT0kenThatN0b0dySees9xYz"

RECORDS: dict[str, Any] = {
    "good.test": {"addresses": [GOOD], "elsewhere": [SHARED]},
    "api.good.test": {"addresses": [SHARED]},
    "other.test": {"addresses": [SHARED]},
    "evil.test": {"addresses": [EVIL]},
    "db.test": {"addresses": [GOOD]},
    "*.wild.test": {"addresses": [GOOD]},
    "inside.test": {"addresses": [PRIVATE]},
    "meta.test": {"addresses": [METADATA]},
    "mixed.test": {"addresses": [PRIVATE, GOOD]},
    "brief.test": {"addresses": [GOOD], "ttl": 1},
    "*.silent.test": {"silent": True},
}


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


class Internet:
    """The namespace with its servers."""

    def __init__(self) -> None:
        tag = secrets.token_hex(2)
        self.space, self._link, net = f"hfw-{tag}", f"hfw{tag}", f"100.126.{secrets.randbelow(256)}"
        self.host, self.address = f"{net}.1", f"{net}.2"
        self.addresses = [RESOLVER, OTHER_RESOLVER, GOOD, EVIL, SHARED, PRIVATE, METADATA]
        self._net = net
        self.said: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="hfw-")
        self.certificate = Path(self._directory.name) / "certificate.pem"
        self.files = Path(self._directory.name) / "files"
        """What is served to who shows the token."""

    def start(self) -> None:
        """Raises when it cannot be made; `stop` cleans up in any case."""
        sh(f"ip netns add {self.space}; ip link add {self._link} type veth peer name eth0 netns {self.space}")
        sh(f"ip addr add {self._net}.1/30 dev {self._link}; ip link set {self._link} up")
        sh(f"ip -n {self.space} addr add {self._net}.2/30 dev eth0; ip -n {self.space} link set eth0 up")
        sh(f"ip -n {self.space} link set lo up; ip -n {self.space} route add default via {self._net}.1")
        for address in self.addresses:
            sh(f"ip -n {self.space} addr add {address}/32 dev lo; ip route replace {address}/32 via {self._net}.2")
        self.certificate.write_bytes(_certificate())
        self.files.mkdir()
        command = ["nsenter", f"--net=/run/netns/{self.space}", sys.executable, "-I", "-S", str(HERE / "server.py")]
        arguments = [str(self.certificate), RESOLVER, OTHER_RESOLVER, str(self.files), TOKEN]
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self.wait(lambda said: said.get("ready") is True)
        self.resolve(RECORDS)

    def stop(self) -> None:
        """All of it is gone then."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._directory.cleanup()
        for address in self.addresses:
            subprocess.run(f"ip route del {address}/32 via {self._net}.2", shell=True, capture_output=True, check=False)
        for command in (f"ip link del {self._link}", f"ip netns del {self.space}"):
            subprocess.run(command, shell=True, capture_output=True, check=False)

    def resolve(self, records: dict[str, Any]) -> None:
        """Have the name server know these."""
        assert self._process is not None
        assert self._process.stdin is not None
        before = len(self.said)
        self._process.stdin.write(json.dumps(records) + "\n")
        self._process.stdin.flush()
        self.wait(lambda said: "records" in said, before)

    def asked(self, since: int = 0, *, elsewhere: bool = False) -> list[str]:
        """The names that the name server was asked for, or the other one."""
        with self._news:
            return [said["asked"] for said in self.said[since:] if said.get("elsewhere") is elsewhere]

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """The requests that came."""
        with self._news:
            return [said["request"] for said in self.said[since:] if "request" in said]

    def mark(self) -> int:
        """Where the next that is said will stand."""
        with self._news:
            return len(self.said)

    def wait(self, what: Callable[[dict[str, Any]], bool], since: int = 0) -> None:
        """Until a server has said this."""
        with self._news:
            assert self._news.wait_for(lambda: any(map(what, self.said[since:])), 30)

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()


class World:
    """One node, one internet, and whoever is on it."""

    def __init__(self, node: NodeHost, internet: Internet) -> None:
        self.node, self.internet = node, internet

    def sandbox(self, *allow: str, **more: Any) -> dict[str, Any]:
        """One that may reach this, with the client in it."""
        network = more.pop("network", None) or {"mode": "rules", "allow": list(allow), **more}
        made = self.node.boot(network=network)
        self.prepare(made)
        return made

    def prepare(self, sandbox: dict[str, Any]) -> None:
        """Put the client into it."""
        program = (HERE / "client.py").read_text()
        ran = self.node.exec(sandbox, f"cat >{CLIENT} <<'END-OF-CLIENT'\n{program}\nEND-OF-CLIENT")
        assert ran.exit_code == 0, ran.stderr

    def run(self, sandbox: dict[str, Any], *steps: dict[str, Any], timeout: float = 60) -> list[Any]:
        """What came of each."""
        return [came for came, _ in self.timed(sandbox, *steps, timeout=timeout)]

    def timed(self, sandbox: dict[str, Any], *steps: dict[str, Any], timeout: float = 60) -> list[tuple[Any, float]]:
        """What came of each, and how many milliseconds it took."""
        ran = self.node.exec(sandbox, f"python3 {CLIENT} {shlex.quote(json.dumps(steps))}", timeout=timeout)
        assert ran.exit_code == 0, ran.stderr + ran.stdout
        return [(came, took) for came, took in json.loads(ran.stdout)]

    def policy(self, sandbox: dict[str, Any], *allow: str, **more: Any) -> float:
        """Change what it may reach; how many seconds that took."""
        network = more.pop("network", None) or {"mode": "rules", "allow": list(allow), **more}
        start = time.monotonic()
        answer = self.node.call("PUT", f"/sandboxes/{sandbox['id']}/network", network)
        assert answer.status == 200, answer.body
        return time.monotonic() - start

    def fence(self, name: str = "fence") -> int:
        """The process id of the node's fence, or broker."""
        for _ in range(200):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
                    if f"hutch.egress.{name}".encode() in path.read_bytes() and parent == self.node.pid:
                        return int(path.parent.name)
            time.sleep(0.05)
        raise AssertionError(f"there is no {name}\n" + self.node.log()[-3000:])


@contextlib.contextmanager
def a_world(**settings: str) -> Iterator[World]:
    """Everything of it is gone afterwards."""
    internet = Internet()
    node = NodeHost(
        {"SSL_CERT_FILE": str(internet.certificate)},
        egress_resolver=RESOLVER,
        egress_floor="2",
        warm_pool_mib="0",
        **settings,
    )
    try:
        internet.start()
        node.start()
        yield World(node, internet)
    finally:
        try:
            node.close()
        finally:
            internet.stop()


def _certificate() -> bytes:
    """For all names of the tests, key and all."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "good.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(n) for n in ("good.test", "*.good.test", "evil.test", "*.test")]),
            False,
        )
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + made.public_bytes(serialization.Encoding.PEM)
