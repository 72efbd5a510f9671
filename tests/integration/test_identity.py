"""Identity tokens, from inside real sandboxes, judged by a verifier that knows nothing but the issuer's URL: as Vault,
AWS and Google do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from tests.stack import Stack

from hutch.model import audit

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

AUDIENCE = "https://vault.example.com"
SAID = {"app": "reviewer", "user": "ada@example.com", "repositories": ["acme/web"], "permissions": ["contents:read"]}


@pytest.fixture(scope="module")
def stack(standard_template: str) -> Iterator[Stack]:
    made = Stack()
    try:
        made.up()
        yield made
    finally:
        made.close()


class Refused(Exception):
    pass


@dataclass
class Verifier:
    """What a Vault role is: an issuer, an audience, and claims that must be so."""

    issuer: str
    audience: str
    bound: dict[str, Any]

    def login(self, token: str) -> dict[str, Any]:
        with httpx.Client(trust_env=False) as client:
            found = client.get(f"{self.issuer}/.well-known/openid-configuration").json()
            assert found["issuer"] == self.issuer
            keys = jwt.PyJWKSet.from_dict(client.get(found["jwks_uri"]).json())
            algorithms = found["id_token_signing_alg_values_supported"]
            try:
                key = keys[jwt.get_unverified_header(token)["kid"]]
                said: dict[str, Any] = jwt.decode(
                    token, key.key, algorithms=algorithms, audience=self.audience, issuer=self.issuer
                )
            except (KeyError, jwt.InvalidTokenError) as error:
                raise Refused(str(error)) from error
            if any(said.get(name) != value for name, value in self.bound.items()):
                raise Refused("it is not bound to this")
            if not client.post(found["introspection_endpoint"], data={"token": token}).json()["active"]:
                raise Refused("it does not hold any more")
        return said


def make(stack: Stack, **fields: Any) -> str:
    resources = {"cpus": 1, "memory_mib": 256, "disk_mib": 128, "pids": 64}
    body = {"template": "standard", "resources": resources} | fields
    return str(stack.must(stack.ask("POST", "/v1/sandboxes", body))["id"])


def curl(stack: Stack, box: str, *more: str, url: str = f"http://identity.hutch/token?audience={AUDIENCE}") -> Any:
    """Status and body of a call from inside; status 0 where there is no connection."""
    words = ["curl", "-s", "--noproxy", "*", "-m", "30", "-w", "\n%{http_code}", *more, url]
    ran = stack.change(box, "exec", {"command": words})
    body, _, status = ran["stdout"].rpartition("\n")
    return int(status), json.loads(body) if body else None


def token(stack: Stack, box: str, *more: str) -> str:
    status, body = curl(stack, box, "-H", "Metadata-Flavor: Hutch", *more)
    assert status == 200, body
    return str(body["token"])


def test_a_verifier_takes_a_sandboxs_own_token_and_no_other(stack: Stack) -> None:
    verifier = Verifier(stack.get("/v1/identity")["issuer"], AUDIENCE, {})
    one, other = make(stack, identity=SAID), make(stack)
    said = verifier.login(token(stack, one))
    assert said["sub"] == f"org:org_default:app:reviewer:sandbox:{one}"
    assert {name: said[name] for name in SAID} == SAID
    assert said["template"] == "standard" and said["template_digest"].startswith("sha256:")

    # The other one cannot get it, whatever it sends; and its own does not do for what is bound to the first.
    lies = ["-H", f"Hutch-Sandbox: {one}", "-H", f"X-Real-Ip: {one}", "--get", "-d", f"sandbox={one}"]
    foreign = token(stack, other, *lies)
    assert verifier.login(foreign)["sandbox"] == other
    with pytest.raises(Refused, match="bound"):
        Verifier(verifier.issuer, AUDIENCE, {"sandbox": one}).login(foreign)
    with pytest.raises(Refused, match="udience"):
        Verifier(verifier.issuer, "https://another.example.com", {}).login(foreign)

    # A program that was tricked gets nothing, and there is nothing else at this address, nor at that of clouds.
    assert curl(stack, one)[0] == 403
    assert curl(stack, one, "-H", "Metadata-Flavor: Hutch", "-H", "Host: evil.test")[0] == 403
    assert curl(stack, one, url="http://169.254.169.252:8080/")[0] == 0
    assert curl(stack, one, url="http://169.254.169.254/latest/meta-data/")[0] == 0

    # A fork is somebody else, and says whose fork it is.
    fork = stack.change(one, "fork", {})["sandboxes"][0]["id"]
    said = verifier.login(token(stack, fork))
    assert (said["sandbox"], said["parent"], "permissions" in said) == (fork, one, False)

    # After the end nothing holds that was given before it.
    last = token(stack, one)
    verifier.login(last)
    stack.delete(one)
    with pytest.raises(Refused, match="does not hold"):
        verifier.login(last)
    stack.delete(fork)
    stack.delete(other)


def test_the_policy_and_a_pause_change_nothing_and_a_key_that_is_gone_does(stack: Stack) -> None:
    verifier, box = Verifier(stack.get("/v1/identity")["issuer"], AUDIENCE, {}), make(stack)
    for policy in ({"mode": "rules", "allow": ["example.test"]}, {"mode": "allow_all"}):
        stack.must(stack.ask("PUT", f"/v1/sandboxes/{box}/network", policy))
        verifier.login(token(stack, box))
        assert curl(stack, box, url="http://169.254.169.252:8080/")[0] == 0
    first = verifier.login(token(stack, box))["sub"]
    stack.change(box, "pause")
    old = token(stack, box)
    assert verifier.login(old)["sub"] == first
    stack.must(stack.ask("POST", "/v1/identity/rotate", {}))
    new = token(stack, box)
    assert verifier.login(old) and verifier.login(new)
    stack.must(stack.ask("POST", "/v1/identity/rotate", {"grace": 0}))
    for gone in (old, new):
        with pytest.raises(Refused):
            verifier.login(gone)
    verifier.login(token(stack, box))
    stack.delete(box)


def test_a_question_outlives_the_server_that_was_asked(stack: Stack) -> None:
    """The server is dead, and one that was handed the question died with it: the next one answers."""
    box = make(stack)
    url = "http://identity.hutch/token?audience=a"
    words = f"curl -sf --noproxy '*' -m 30 -H 'Metadata-Flavor: Hutch' --retry 5 '{url}'"
    script = f"sleep 0.5; {words} > /tmp/answer; touch /tmp/done"
    stack.change(box, "exec", {"command": ["bash", "-c", script], "background": True})
    stack.kill_server()
    (asked,) = stack.call("GET", "/identity?wait=20").json()["requests"]
    assert asked["sandbox"] == box
    stack.up()
    answer = stack.execute(box, "while [ ! -e /tmp/done ]; do sleep 0.1; done; cat /tmp/answer")
    assert json.loads(answer)["token"].count(".") == 2
    stack.delete(box)


def test_the_audit_log_outlives_kills(stack: Stack) -> None:
    """Commands go on in several threads while the server is killed: of each that was answered there are both records,
    of each that was carried out there is one, and the chain is whole."""
    box = make(stack)
    answered: list[int] = []

    def work(worker: int) -> None:
        for number in range(worker, 1000, 4):
            try:
                ran = stack.ask("POST", f"/v1/sandboxes/{box}/exec", {"command": f"echo {number} >> /tmp/ran"}, 10)
            except httpx.HTTPError:
                return
            if ran.status_code == 200:
                answered.append(number)

    for _ in range(2):
        before = len(answered)
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(work, worker) for worker in range(4)]
            while len(answered) < before + 8:
                time.sleep(0.05)
            stack.kill_server()
        assert all(each.exception() is None for each in done)
        stack.up()
    carried_out = {int(line) for line in stack.execute(box, "cat /tmp/ran").split()}
    with stack.client() as client:
        lines = [json.loads(line) for line in client.get("/v1/audit/export").text.splitlines()]
    assert list(audit.Verifier().read(lines)) == []
    calls = [each for each in lines if each.get("action") == "call" and each["subject"] == box]
    begun = {each["request"]: str(each["detail"]["body"]["command"]) for each in calls if "body" in each["detail"]}
    ended = {begun[each["request"]] for each in calls if each["outcome"] == "200" and each["request"] in begun}
    assert {f"echo {number} >> /tmp/ran" for number in answered} <= ended
    assert {f"echo {number} >> /tmp/ran" for number in carried_out} <= set(begun.values())
    tokens = [each for each in lines if each.get("action") == "identity"]
    assert tokens and all(each["actor"] == each["subject"] for each in tokens)
    stack.delete(box)
