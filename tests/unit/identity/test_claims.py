"""The shapes of claims that clouds and other verifiers take."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest

from hutch.identity import signing
from hutch.identity.claims import claims_of
from hutch.model import Identity, new_id
from hutch.store.sandboxes import SandboxRow

FULL = Identity(
    app="a" * 32,
    user="u" * 128,
    repositories=["r" * 99 + str(number % 10) for number in range(16)],
    permissions=["p" * 63 + str(number % 10) for number in range(16)],
)


def row(**values: Any) -> SandboxRow:
    given: dict[str, Any] = {
        "id": new_id("sbx"), "org": new_id("org"), "state": "running", "template": "standard", "resources": {},
        "network": {}, "created_at": 1.0, "deadline": 2.0, "created_by": new_id("key"),
    }  # fmt: skip
    return SandboxRow(**given | values)


def test_the_subject_can_be_matched_by_patterns_and_is_short_enough_for_google() -> None:
    made, task = row(identity=FULL.model_dump(mode="json")), new_id("tsk")
    subject = claims_of(made, task, "ab")["sub"]
    assert subject == f"org:{made.org}:app:{'a' * 32}:task:{task}"
    assert len(subject.encode()) <= 127
    assert fnmatch.fnmatchcase(subject, f"org:{made.org}:app:{'a' * 32}:task:*")
    plain = row()
    assert claims_of(plain, None, "")["sub"] == f"org:{plain.org}:app:-:sandbox:{plain.id}"


def test_claims_that_do_not_apply_are_left_out() -> None:
    made = row()
    assert claims_of(made, None, "") == {
        "sub": f"org:{made.org}:app:-:sandbox:{made.id}",
        "org": made.org,
        "created_by": made.created_by,
        "sandbox": made.id,
        "template": "standard",
    }


def test_a_fork_names_its_parent_and_the_template_its_digest() -> None:
    claims = claims_of(row(forked_from="sbx_parent"), None, "ab12")
    assert claims["parent"] == "sbx_parent" and claims["template_digest"] == "sha256:ab12"


def test_the_largest_token_fits_where_tokens_are_sent() -> None:
    claims = claims_of(row(identity=FULL.model_dump(mode="json"), forked_from=new_id("sbx")), new_id("tsk"), "f" * 64)
    whole = {"iss": "https://" + "i" * 100, "aud": "a" * 255, **claims, "iat": 1, "nbf": 1, "exp": 1, "jti": "j" * 32}
    token = signing.sign(whole, signing.load_key(signing.make_key()[0]), "k" * 43)
    assert len(token) < 7000  # headers of 8 KiB are what most servers take; AWS takes 20 000 characters
    assert all(isinstance(value, str | int | list) for value in whole.values())  # nothing nested: clouds map these


@pytest.mark.parametrize(
    "wrong",
    [
        {"app": "a:task:tsk_x"}, {"app": "A"}, {"app": "-"}, {"app": "a*"}, {"user": "a\nb"}, {"user": ""},
        {"repositories": ["a b"]}, {"permissions": [""]}, {"repositories": ["r"] * 17}, {"admin": True},
    ],
)  # fmt: skip
def test_what_could_be_taken_for_another_subject_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Identity.model_validate(wrong)
