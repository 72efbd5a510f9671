"""The broker against real clients in a real sandbox, and servers that a test makes."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fence.world import EVIL, TOKEN, World, a_world

from hutch.model import AllowAll
from hutch.model.grant import brokered
from hutch.tls.minting import Authority

pytestmark = pytest.mark.root

PLACEHOLDER = "ghp_Plac3holder0fTheT0kenThatTheySee9xYz"
OTHER = "Another-placeholder-of-another-secret"
HOSTS = ["good.test", "api.good.test:443,8443"]
RULES = ["good.test", "api.good.test:443,8443", "evil.test", "bad.wild.test", "other.test"]
ALL = [*HOSTS, "evil.test", "bad.wild.test"]


def grant(authority: Authority, value: str | None = TOKEN, **changes: Any) -> dict[str, Any]:
    token = {
        "name": "GITHUB_TOKEN",
        "placeholder": PLACEHOLDER,
        "value": value,
        "hosts": HOSTS if value else [],
        "places": ["bearer", "basic", "header:x-key", "query:key"],
        **changes,
    }
    other = {
        **token,
        "name": "OTHER",
        "placeholder": OTHER,
        "value": "other-value",
        "hosts": ["evil.test", "bad.wild.test"],
    }
    return {
        "authority": authority.certificate,
        "key": authority.key,
        "hosts": ALL,
        "secrets": [token, other],
    }


_END = "=end="


class Box:
    """A sandbox with a secret."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.authority = Authority.make("hutch broker of a test", ["good.test", "evil.test", "wild.test"])
        network = {"mode": "rules", "allow": RULES, "brokered": ALL}
        self.made = world.node.boot(network=network, secrets=grant(self.authority))
        self.seen = 0

    @property
    def id(self) -> str:
        return str(self.made["id"])

    def sh(self, command: str, **env: str) -> Any:
        return self.world.node.exec(self.made, command, env=env)

    def curl(self, *options: str) -> tuple[int, str]:
        """The status and the answer, head and all."""
        (came,) = self.curls([list(options)])
        return came

    def curls(self, calls: list[list[str]]) -> list[tuple[int, str]]:
        """The same for several, one after the other: to start a program inside takes longer than what it does."""
        each = [f"curl -sS -i -m 20 -w '\\n%{{http_code}}{_END}' {shlex.join(options)}" for options in calls]
        ran = self.sh("; ".join(each))
        texts = [text.rpartition("\n") for text in ran.stdout.split(_END)[:-1]]
        assert len(texts) == len(calls), ran.stdout + ran.stderr
        return [(int(status), text + ran.stderr) for text, _, status in texts]

    def python(self, code: str) -> str:
        ran = self.sh(f"python3 - <<'END'\n{code}\nEND")
        return str(ran.stdout + ran.stderr)

    def told(self, count: int = 1) -> list[dict[str, Any]]:
        """What its egress log says of secrets, since it was asked for last."""
        found: list[dict[str, Any]] = []
        for _ in range(50):
            path = f"/sandboxes/{self.id}/egress?after={self.seen}&limit=1000&wait=0.2"
            entries = self.world.node.call("GET", path).json()["entries"]
            self.seen = entries[-1]["seq"] if entries else self.seen
            found += [entry for entry in entries if entry["kind"] == "secret"]
            if len(found) >= count and not entries:
                break
        return found


@pytest.fixture(scope="module")
def world(standard_template: str) -> Iterator[World]:
    with a_world() as made:
        fill(made.internet.files)
        yield made


@pytest.fixture(scope="module")
def box(world: World) -> Box:
    return Box(world)


@contextlib.contextmanager
def issuing(world: World, token: str | None) -> Iterator[list[dict[str, Any]]]:
    """A server that answers one question for an identity token with this; None: it refuses. What it was asked."""
    asked: list[dict[str, Any]] = []

    def answer() -> None:
        while not asked:
            asked.extend(world.node.call("GET", "/identity?wait=5").json()["requests"])
        said = {"token": token, "expires_at": time.time() + 300} if token else {"refused": "it has ended"}
        assert world.node.call("POST", "/identity", {"id": asked[0]["id"], **said}).status == 204

    thread = threading.Thread(target=answer)
    thread.start()
    yield asked
    thread.join(30)


def fill(files: Path) -> None:
    """A repository, a package of Python's, and one of npm's."""
    work = files.parent / "work"
    run = f"git init -q {work} && cd {work} && echo hi > readme && git add . && git -c user.name=a -c user.email=a@b "
    subprocess.run(run + "commit -qm one", shell=True, check=True, capture_output=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(files / "repo.git")], check=True)
    subprocess.run(["git", "-C", str(files / "repo.git"), "update-server-info"], check=True)
    (files / "simple" / "hutchling").mkdir(parents=True)
    wheel = files / "simple" / "hutchling" / "hutchling-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("hutchling.py", "VALUE = 7\n")
        made.writestr("hutchling-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hutchling\nVersion: 1.0\n")
        made.writestr("hutchling-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("hutchling-1.0.dist-info/RECORD", "")
    (files / "simple" / "hutchling" / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as tar:
        for name, text in (("package/package.json", '{"name":"hutchling","version":"1.0.0"}'), ("package/a.js", "")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    (files / "npm").mkdir()
    (files / "npm" / "hutchling.tgz").write_bytes(package.getvalue())
    dist = {"tarball": "https://good.test/files/npm/hutchling.tgz"}
    version = {"name": "hutchling", "version": "1.0.0", "dist": dist}
    document = {"name": "hutchling", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (files / "npm" / "hutchling").mkdir()
    (files / "npm" / "hutchling" / "index.html").write_text(json.dumps(document))


def test_the_guest_has_a_placeholder_and_the_host_the_value(world: World, box: Box) -> None:
    assert "the fence stands" in (log := world.node.log()) and "the broker stands" in log  # before the box was there
    assert box.sh("echo $GITHUB_TOKEN").stdout.strip() == PLACEHOLDER
    since = world.internet.mark()
    status, text = box.curl("-H", f"Authorization: Bearer {PLACEHOLDER}", "https://good.test/echo")
    assert status == 200, text
    assert TOKEN not in text and "[redacted]" in text
    (request,) = world.internet.requests(since)
    assert f"Bearer {TOKEN}" in request["head"] and PLACEHOLDER not in request["head"]
    (entry,) = box.told()
    assert entry["allowed"] and entry["secret"] == "GITHUB_TOKEN" and entry["name"] == "good.test"


def test_real_clients_with_basic_and_bearer(world: World, box: Box) -> None:
    def ok(command: str) -> str:
        ran = box.sh(f"cd /tmp && {command}")
        assert ran.exit_code == 0, ran.stdout + ran.stderr
        return str(ran.stdout)

    assert "hi" in ok("git clone -q https://x-access-token:$GITHUB_TOKEN@good.test/files/repo.git && cat repo/readme")
    assert ok("sudo -n env -i PATH=$PATH git ls-remote https://a:'" + PLACEHOLDER + "'@good.test/files/repo.git")
    ok("pip install -q --no-deps -i https://u:$GITHUB_TOKEN@good.test/files/simple hutchling")
    assert ok("python3 -c 'import hutchling; print(hutchling.VALUE)'").strip() == "7"
    registry = "--registry=https://good.test/files/npm/ --//good.test/files/npm/:_authToken=$GITHUB_TOKEN"
    ok(f"mkdir -p n && cd n && npm install --no-audit --no-fund {registry} hutchling && ls node_modules/hutchling/a.js")
    ok("wget -q -O- --header 'Authorization: token '$GITHUB_TOKEN https://good.test/files/npm/hutchling.tgz >x.tgz")
    fetch = (
        "fetch('https://api.good.test:8443/echo', {headers: {'X-Key': process.env.GITHUB_TOKEN}})"
        ".then(r => r.text()).then(t => console.log(t))"
    )
    said = ok(f'node -e "{fetch}"')
    assert "[redacted]" in said and PLACEHOLDER not in said
    urllib = (
        "import os, urllib.request as u; r = u.Request('https://good.test/echo?key=' + os.environ['GITHUB_TOKEN']); "
        "print(u.urlopen(r).read().decode())"
    )
    said = ok(f'python3 -c "{urllib}"')
    assert "[redacted]" in said and TOKEN not in said and PLACEHOLDER not in said
    assert all(entry["allowed"] for entry in box.told(5))


def decisions(world: World, box: str) -> set[tuple[str, str]]:
    """Which secrets were used or refused, as the audit log is told."""
    told = [entry["data"] for entry in world.node.journal(box, "activity")]
    return {
        (each["outcome"], event["secret"])
        for each in told
        if each["action"] == "secret"
        for event in each["detail"]["events"]
        if "secret" in event
    }


def test_a_placeholder_anywhere_else_is_refused_and_told(world: World, box: Box) -> None:
    bearer = f"Authorization: Bearer {PLACEHOLDER}"
    encoded = base64.b64encode(f"user:{OTHER}".encode()).decode()
    box.told(0)
    misplaced = {
        "the path": [f"https://good.test/{PLACEHOLDER}"],
        "the path, encoded": ["https://good.test/" + "".join(f"%{ord(each):02x}" for each in PLACEHOLDER)],
        "another parameter": [f"https://good.test/?token={PLACEHOLDER}"],
        "another header": ["-H", f"X-Other: {PLACEHOLDER}", "https://good.test/"],
        "a header's name": ["-H", f"{PLACEHOLDER}: x", "https://good.test/"],
        "the body": ["-d", f"token={PLACEHOLDER}", "https://good.test/"],
        "the body in chunks": ["-H", "Transfer-Encoding: chunked", "-d", f"a={PLACEHOLDER}", "https://good.test/"],
        "another host's": ["-H", bearer, "https://evil.test/"],
        "another's here": ["-H", f"Authorization: Bearer {OTHER}", "https://good.test/"],
        "another's in basic": ["-H", f"Authorization: Basic {encoded}", "https://good.test/"],
        "beside a good one": ["-H", bearer, "-H", f"X-Other: {PLACEHOLDER}", "https://good.test/"],
    }
    misplaced["without TLS"] = ["-H", bearer, "http://good.test/"]
    misplaced["without TLS, in a body"] = ["-d", f"token={PLACEHOLDER}", "http://other.test/"]
    twice = box.curls([["-d", "token=none", "http://other.test/"], ["http://other.test/"]])
    assert [status for status, _ in twice] == [200, 200]
    since = world.internet.mark()
    for what, (status, text) in zip(misplaced, box.curls(list(misplaced.values())), strict=True):
        assert status == 403 and "Hutch" in text, f"{what}: {status} {text}"
    assert not [each for each in world.internet.requests(since) if "token" in each["head"] or TOKEN in each["head"]]
    told = box.told(len(misplaced))
    assert not any(entry["allowed"] for entry in told)
    assert {entry["secret"] for entry in told} == {"GITHUB_TOKEN", "OTHER"}
    news = world.node.journal(box.id, "egress_refused")
    assert any("the placeholder of GITHUB_TOKEN stands in the path" in each["data"]["message"] for each in news)
    end = time.monotonic() + 20  # for the audit log a second is gathered
    while len(decided := decisions(world, box.id)) < 3:
        assert time.monotonic() < end, decided
        time.sleep(0.1)
    assert decided >= {("used", "GITHUB_TOKEN"), ("refused", "GITHUB_TOKEN"), ("refused", "OTHER")}


def test_requests_that_say_something_else_than_their_connection(world: World, box: Box) -> None:
    good, evil = "GET / HTTP/1.1\r\nHost: good.test\r\n\r\n", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    two = "Content-Length: 1\r\nTransfer-Encoding: chunked"
    connections = [
        [good],
        [evil],
        [good, evil],
        ["GET https://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n"],
        ["CONNECT evil.test:443 HTTP/1.1\r\nHost: good.test\r\n\r\n"],
        [f"POST / HTTP/1.1\r\nHost: good.test\r\n{two}\r\n\r\n"],
        ["GET / HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"],
    ]
    said = box.python(
        "import socket, ssl\n"
        "c = ssl.create_default_context(); c.set_alpn_protocols(['h2', 'http/1.1'])\n"
        f"for parts in {connections!r}:\n"
        "    s = c.wrap_socket(socket.create_connection(('good.test', 443)), server_hostname='good.test')\n"
        "    s.settimeout(10)\n"
        "    for part in parts:\n"
        "        s.sendall(part.encode())\n"
        "        came = s.recv(9999)\n"
        "    print(s.selected_alpn_protocol(), came.split()[1].decode())\n"
    )
    assert said.split() == [
        word for status in (200, 421, 421, 400, 400, 400, 501) for word in ("http/1.1", str(status))
    ]


def test_values_that_a_host_repeats_do_not_come_in(world: World, box: Box) -> None:
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    headers = (f"Bearer {PLACEHOLDER}", "Basic " + base64.b64encode(f"me:{PLACEHOLDER}".encode()).decode())
    urls = [f"https://good.test{path}?key={PLACEHOLDER}" for path in ("/echo", "/echo/chunked")]
    for status, text in box.curls([["-H", f"Authorization: {each}", url] for each in headers for url in urls]):
        assert status == 200 and "[redacted]" in text
        assert TOKEN not in text and basic not in text
    status, text = box.curl("--compressed", "-H", f"Authorization: Bearer {PLACEHOLDER}", "https://good.test/echo/gzip")
    assert status == 502 and "compress" in text
    everywhere = ("header", "name", "reason", "location", "early", "body", "chunks", "gzip", "br")
    for shown, shapes in ((headers[0], everywhere), (headers[1], ("header", "location", "body"))):
        calls = [["-H", f"Authorization: {shown}", "https://good.test/remember"]]
        calls += [[f"https://good.test/repeat/{shape}"] for shape in shapes]  # each on a connection of its own
        remembered, *repeated = box.curls(calls)
        assert remembered[0] == 200
        for shape, (status, text) in zip(shapes, repeated, strict=True):
            assert status in ((502,) if shape in ("gzip", "br") else (200, 302, 404)), shape
            assert TOKEN.lower() not in text.lower() and basic not in text, shape
            assert all(not _says_token(word) for word in re.findall(r"[\w+/=]{40,}", text)), shape
    log = world.node.log()
    assert TOKEN not in log and PLACEHOLDER not in log
    assert TOKEN not in json.dumps(box.told(4))


def _says_token(word: str) -> bool:
    with contextlib.suppress(ValueError):
        return TOKEN.encode()[2:-2] in base64.b64decode(word + "=" * (-len(word) % 4))
    return False


def test_a_guess_that_a_host_repeats_comes_back_alike_whether_it_is_right_or_not(world: World, box: Box) -> None:
    guesses = [TOKEN[:1], "?", TOKEN[:12], TOKEN[:11] + "?"]
    said = box.python(
        "import socket, ssl\n"
        "s = socket.create_connection(('good.test', 443))\n"
        "s = ssl.create_default_context().wrap_socket(s, server_hostname='good.test')\n"
        "s.settimeout(10)\n"
        "head = 'GET /ws HTTP/1.1\\r\\nHost: good.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n'\n"
        f"head += 'Sec-WebSocket-Key: x\\r\\nAuthorization: Bearer {PLACEHOLDER}\\r\\n\\r\\n'\n"
        "s.sendall(head.encode())\n"
        "came = b''\n"
        "while b'\\r\\n\\r\\n' not in came: came += s.recv(9999)\n"
        "print(came.split()[1].decode())\n"
        f"for guess in {guesses!r}:\n"
        "    s.sendall(guess.encode())\n"
        "    came = b''\n"
        "    while len(came) < len(guess): came += s.recv(9999)\n"
        "    print(came.decode())\n"
    )
    assert said.split() == ["101", *guesses]


def test_a_host_whose_certificate_is_not_good(world: World, box: Box) -> None:
    status, text = box.curl("-H", f"Authorization: Bearer {OTHER}", "https://bad.wild.test/")
    assert status == 502 and "certificate is not good" in text


def test_clients_that_trust_nobody_new_fail_clearly(world: World, box: Box) -> None:
    box.told(0)
    ran = box.sh("curl -sS --cacert /etc/ssl/certs/ISRG_Root_X1.pem --capath /nowhere https://good.test/ 2>&1")
    assert ran.exit_code == 60, ran.stdout
    (entry,) = box.told()
    assert not entry["allowed"] and "does not accept the broker's certificate" in entry["reason"]
    # Hosts that no secret is for have their own certificates.
    ran = box.sh("curl -sSk -v https://other.test/ 2>&1 | grep -i issuer")
    assert "hutch" not in ran.stdout.lower() and "good.test" in ran.stdout


def test_another_value_at_once_and_none(world: World, box: Box) -> None:
    def works() -> tuple[int, str]:
        since = world.internet.mark()
        status, _ = box.curl("-H", f"Authorization: Bearer {PLACEHOLDER}", "https://good.test/")
        heads = [each["head"] for each in world.internet.requests(since)]
        return status, heads[0] if heads else ""

    def put(what: dict[str, Any]) -> None:
        assert world.node.call("PUT", f"/sandboxes/{box.id}/secrets", what).status == 200

    put(grant(box.authority, "another-value-of-another-length"))
    status, head = works()
    assert status == 200 and "Bearer another-value-of-another-length" in head
    put(grant(box.authority, None))
    assert works() == (403, "")
    put(grant(box.authority))
    # A pause keeps it, and a value that comes meanwhile.
    world.node.pause(box.made)
    put(grant(box.authority, "a-value-that-came-in-the-night"))
    box.made = world.node.resume(box.made)
    status, head = works()
    assert status == 200 and "Bearer a-value-that-came-in-the-night" in head
    assert box.sh("echo $GITHUB_TOKEN").stdout.strip() == PLACEHOLDER
    put(grant(box.authority))


def test_header_rules_and_an_authority_that_comes_while_it_runs(world: World, box: Box) -> None:
    """A sandbox that was made without any secret."""
    plain = Box.__new__(Box)
    plain.world, plain.seen = world, 0
    plain.made = world.node.boot(network={"mode": "rules", "allow": RULES})
    authority = Authority.make("hutch broker of a test that runs", ["good.test"])
    given = {"Authorization": f"Bearer {TOKEN}", "X-Team": "blue"}
    told = {
        "authority": authority.certificate,
        "key": authority.key,
        "hosts": ["*.good.test", "good.test"],
        "secrets": [],
        "headers": [
            {"host": "*.good.test", "headers": {"X-Team": "wide"}},
            {"host": "good.test", "headers": given, "secrets": {"openai": TOKEN}},
        ],
    }
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/secrets", told).status == 200
    policy = {"mode": "rules", "allow": RULES, "brokered": told["hosts"]}
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/network", policy).status == 200
    since = world.internet.mark()
    ran = plain.curls(
        [
            ["-H", "authorization: Basic bWU6bWU=", "-H", "x-team: red", "https://good.test/echo"],
            ["https://good.test/echo?again"],
            ["http://good.test/"],
        ]
    )
    assert [status for status, _ in ran] == [200] * 3, ran
    assert TOKEN not in ran[0][1] and "[redacted]" in ran[0][1] and "X-Team: blue" in ran[0][1]
    first, _, unencrypted = [each["head"] for each in world.internet.requests(since)]
    assert f"Authorization: Bearer {TOKEN}" in first and "Basic" not in first and "red" not in first
    assert "blue" not in unencrypted and TOKEN not in unencrypted
    assert "200" in plain.python("import urllib.request as u; print(u.urlopen('https://api.good.test/').status)"), (
        "a program that reads the list of the system"
    )
    assert not box.sh("curl -sSo /dev/null https://good.test/").stderr  # another sandbox has its own
    (entry, *_) = [each for each in plain.told(2) if each["name"] == "good.test"]
    assert entry["allowed"] and entry["secret"] == "openai"
    token = {"host": "good.test", "headers": {"Authorization": "Bearer ${e2b.identity.tokens.aws}"}}
    told["headers"] = [token | {"tokens": {"aws": "sts.example"}}]
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/secrets", told).status == 200
    since = world.internet.mark()
    with issuing(world, "a-token") as asked:
        ran = plain.curls([["https://good.test/"], ["-H", "Authorization: mine", "-d", "x=1", "https://good.test/two"]])
    assert [status for status, _ in ran] == [200] * 2, ran
    assert all("Authorization: Bearer a-token" in each["head"] for each in world.internet.requests(since))
    assert [(each["sandbox"], each["audience"]) for each in asked] == [(plain.id, "sts.example")], "kept while it holds"
    told["headers"] = [token | {"tokens": {"aws": "other.example"}}]
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/secrets", told).status == 200
    with issuing(world, None):
        status, text = plain.curl("https://good.test/")
    assert status == 403 and "no identity token: There is no token: it has ended" in text
    told["headers"] = [{"host": "good.test", "headers": {}, "missing": ["openai"]}]
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/secrets", told).status == 200
    assert plain.curl("https://good.test/")[0] == 403
    gone = {"mode": "rules", "allow": RULES}
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/secrets", told | {"hosts": [], "headers": []}).status == 200
    assert world.node.call("PUT", f"/sandboxes/{plain.id}/network", gone).status == 200
    assert plain.curl("-k", "https://good.test/")[0] == 200


def test_with_an_open_network_hosts_of_secrets_are_brokered_all_the_same(world: World, box: Box) -> None:
    policy = brokered(AllowAll(), ALL).model_dump(mode="json")
    assert world.node.call("PUT", f"/sandboxes/{box.id}/network", policy).status == 200
    status, text = box.curl("-H", f"Authorization: Bearer {PLACEHOLDER}", "https://good.test/echo")
    assert status == 200 and "[redacted]" in text
    assert "good.test" in box.sh("curl -sSkv https://unknown.wild.test/ 2>&1 | grep issuer").stdout
    assert box.sh(f"curl -sS http://{EVIL}/").exit_code == 0
    network = {"mode": "rules", "allow": RULES, "brokered": ALL}
    assert world.node.call("PUT", f"/sandboxes/{box.id}/network", network).status == 200


def test_a_fork_has_none_of_it(world: World, box: Box) -> None:
    snapshot = world.node.snapshot(box.made)["id"]
    box.made = world.node.sandbox(box.id) or {}
    network = {"mode": "rules", "allow": RULES}
    fork = world.node.boot(from_snapshot=snapshot, network=network)
    since = world.internet.mark()
    ran = world.node.exec(
        fork, f"echo [$GITHUB_TOKEN]; curl -sSk -H 'Authorization: Bearer {PLACEHOLDER}' https://good.test/"
    )
    assert ran.stdout.startswith("[]\n")
    (request,) = world.internet.requests(since)
    assert TOKEN not in request["head"]
    world.node.call("DELETE", f"/sandboxes/{fork['id']}")


def test_a_crash_of_the_broker_closes_and_reopens(world: World, box: Box) -> None:
    again = ["--retry", "20", "--retry-all-errors", "--retry-delay", "1"]  # it may take a while to stand again
    call = [*again, "-H", f"Authorization: Bearer {PLACEHOLDER}", "https://good.test/echo"]
    assert box.curl(*call)[0] == 200
    broker = world.fence("broker")
    environment = Path(f"/proc/{broker}/environ")
    status = Path(f"/proc/{broker}/status").read_text()
    fence = Path(f"/proc/{world.fence()}/status").read_text()
    uid = next(line for line in status.splitlines() if line.startswith("Uid:"))
    assert "\t0" not in uid and uid != next(line for line in fence.splitlines() if line.startswith("Uid:"))
    assert "CapEff:\t0000000000000000" in status and TOKEN.encode() not in environment.read_bytes()
    os.kill(broker, signal.SIGKILL)
    found = [box.curl("-H", f"Authorization: Bearer {PLACEHOLDER}", "https://good.test/echo") for _ in range(2)]
    assert {status for status, _ in found} <= {0, 200} and all(TOKEN not in text for _, text in found)
    assert world.fence("broker") != broker
    assert box.curl(*call)[0] == 200
    world.node.kill()  # and the broker and the fence with it; the sandbox goes on
    world.node.start()
    status, text = box.curl(*call)
    assert status == 200 and "[redacted]" in text, text
