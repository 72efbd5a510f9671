"""Secrets, and the header rules of a sandbox that refer to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from e2b import Sandbox, SandboxException, Secret
from e2b.exceptions import SecretException, SecretNotFoundException

Create = Callable[..., Sandbox]
VALUE = "sk-a-value-that-no-call-tells"
TRUSTED = "cat /run/hutch/trust/authority.pem"


@pytest.fixture
def name() -> Iterator[str]:
    name = f"OpenAI {time.time_ns()}/key"
    yield name
    Secret.destroy(name)


def test_a_secret_from_its_making_to_its_end(name: str) -> None:
    made = Secret.create(name, VALUE, metadata={"team": "blue"})
    assert (made.name, made.version, made.metadata) == (name.lower(), 1, {"team": "blue"})
    assert Secret.get_info(made.secret_id) == Secret.get_info(name) == made
    assert Secret.exists(name) and not Secret.exists("no-such-secret")
    with pytest.raises(SecretException, match="409"):
        Secret.create(name, VALUE)
    with pytest.raises(SecretException, match="400"):
        Secret.create("another", "short")
    second = Secret.update(name, VALUE[::-1])
    assert second.version == 2 and second.metadata == {"team": "blue"}
    assert second.updated_at > second.created_at == made.created_at
    paginator, seen = Secret.list(limit=1), []
    other = Secret.create(f"{name} 2", VALUE)
    while paginator.has_next:
        page = paginator.next_items()
        assert len(page) <= 1
        seen += [each.secret_id for each in page]
    assert {made.secret_id, other.secret_id} <= set(seen) and len(seen) == len(set(seen))
    assert Secret.destroy(other.secret_id) and Secret.destroy(name) and not Secret.destroy(name)
    with pytest.raises(SecretNotFoundException):
        Secret.update(name, VALUE)


def test_rules_of_a_new_sandbox_and_of_one_that_runs(own: Create, name: str) -> None:
    Secret.create(name, VALUE)
    headers = {"Authorization": f"Bearer {Secret.fill(name)}", "X-Team": "blue"}
    network = {"allow_out": lambda ctx: list(ctx.rules), "deny_out": ["0.0.0.0/0"]}
    made = own(network={**network, "rules": {"api.example.org": [{"transform": {"headers": headers}}]}})
    shown = made.get_info().network
    assert shown is not None and shown["rules"] == {"api.example.org": [{"transform": {"headers": headers}}]}
    assert shown["allow_out"] == ["api.example.org"]
    first = made.commands.run(TRUSTED).stdout
    assert "BEGIN CERTIFICATE" in first
    assert VALUE not in made.commands.run("env; sudo -n env; cat /run/hutch/* 2>/dev/null; true").stdout
    made.update_network({**network, "rules": {"other.example.com": [{"transform": {"headers": {"X-Team": "red"}}}]}})
    assert made.get_info().network["rules"] == {"other.example.com": [{"transform": {"headers": {"X-Team": "red"}}}]}
    second = made.commands.run(TRUSTED).stdout
    assert "BEGIN CERTIFICATE" in second and second != first, "the guest trusts who vouches for the new host"
    assert second in made.commands.run("cat /etc/ssl/certs/ca-certificates.crt").stdout
    made.update_network(network)
    assert "rules" not in made.get_info().network


@pytest.mark.parametrize(
    ("host", "headers"),
    [("192.0.2.7", {"X": "1"}), ("a.example.org", {"Host": "b.example.org"}), ("a.example.org", {"X": "1\r\nY: 2"})],
)
def test_rules_that_cannot_be(host: str, headers: dict[str, str]) -> None:
    with pytest.raises(SandboxException, match=r"400.*network\.rules"):
        Sandbox.create(network={"rules": {host: [{"transform": {"headers": headers}}]}})


def test_identity_tokens_of_rules(own: Create) -> None:
    tokens = {"aws": Secret.iam_token(audience="sts.example.org", token_type="JWT-SVID")}
    rules = {"a.example.org": [{"transform": lambda ctx: {"headers": {"X": ctx.iam.tokens["aws"]}}}]}
    made = own(iam={"tokens": tokens}, network={"rules": rules})
    shown = {"a.example.org": [{"transform": {"headers": {"X": "${e2b.identity.tokens.aws}"}}}]}
    assert made.get_info().network["rules"] == shown
    with pytest.raises(SandboxException, match=r"400.*not made with: gcp"):
        made.update_network(
            {"rules": {"a.example.org": [{"transform": {"headers": {"X": "${e2b.identity.tokens.gcp}"}}}]}}
        )
    assert made.get_info().network["rules"] == shown
