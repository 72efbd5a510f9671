"""What the server answers to a node that passes on a question for a token, and to verifiers."""

from __future__ import annotations

import asyncio

import jwt
from tests.unit.control.model_node import ModelNode

from hutch.control.service import Control
from hutch.model import CreateSandbox, Fork, Identity, IdentityAnswer, IdentityRequest

SAID = Identity(app="reviewer", user="ada@example.com", repositories=["acme/web"], permissions=["contents:read"])


async def ask(node: ModelNode, sandbox: str, audience: str = "vault") -> IdentityAnswer:
    node.answered.clear()
    node.asking.put_nowait(IdentityRequest(id="1", sandbox=sandbox, image="ab", audience=audience))
    async with asyncio.timeout(20):
        while not node.answered:
            await asyncio.sleep(0.01)
    return node.answered[0]


async def test_a_token_says_what_is_known_of_the_sandbox(control: Control, node: ModelNode) -> None:
    made = await control.create(CreateSandbox(identity=SAID), by="key_of_ada")
    assert (made.identity, made.created_by, made.forked_from) == (SAID, "key_of_ada", None)
    answer = await ask(node, made.id)
    assert answer.token is not None
    said = jwt.decode(answer.token, options={"verify_signature": False})
    assert said.pop("exp") - said.pop("iat") == 300
    assert said.pop("nbf") and said.pop("jti")
    assert said == {
        "iss": control.issuer.url,
        "aud": "vault",
        "sub": f"org:org_default:app:reviewer:sandbox:{made.id}",
        "org": "org_default",
        "app": "reviewer",
        "user": "ada@example.com",
        "created_by": "key_of_ada",
        "sandbox": made.id,
        "template": "standard",
        "template_digest": "sha256:ab",
        "repositories": ["acme/web"],
        "permissions": ["contents:read"],
    }


async def test_a_fork_has_its_own_identity_and_names_its_parent(control: Control, node: ModelNode) -> None:
    made = await control.create(CreateSandbox(identity=SAID), by="key_of_ada")
    (fork,) = await control.fork(made.id, Fork(), by="key_of_bob")
    answer = await ask(node, fork.id)
    assert answer.token is not None
    said = jwt.decode(answer.token, options={"verify_signature": False})
    assert (said["parent"], said["created_by"], said["sandbox"]) == (made.id, "key_of_bob", fork.id)
    assert not {"app", "user", "repositories", "permissions"} & set(said)
    (other,) = await control.fork(made.id, Fork(identity=Identity(app="b")))
    assert other.identity == Identity(app="b")


async def test_it_holds_until_the_sandbox_ends(control: Control, node: ModelNode) -> None:
    made = await control.create(CreateSandbox())
    token = (await ask(node, made.id)).token
    assert token is not None
    said = await control.identities.introspect(token)
    assert (said["active"], said["sandbox"], said["aud"]) == (True, made.id, "vault")
    await control.pause(made.id)
    assert (await control.identities.introspect(token))["active"]  # it lives on
    await control.delete(made.id)
    assert await control.identities.introspect(token) == {"active": False}
    answer = await ask(node, made.id)
    assert answer.token is None and answer.refused
    assert await control.identities.introspect("nonsense") == {"active": False}


async def test_a_node_is_believed_of_its_own_sandboxes_only(control: Control, node: ModelNode) -> None:
    made = await control.create(CreateSandbox())
    async with control.store.database.write() as connection:
        await control.store.sandboxes.note(connection, made.id, node="another")
    assert (await ask(node, made.id)).token is None
    assert (await ask(node, "sbx_unknown")).token is None
