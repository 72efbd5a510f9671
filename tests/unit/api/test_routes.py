"""What needs no sandbox to be seen."""

from __future__ import annotations

from tests.unit.api.conftest import Api


async def test_lists_are_empty_at_first(api: Api) -> None:
    assert (await api.client.get("/v1/sandboxes")).json() == {"sandboxes": [], "next_cursor": None}
    assert (await api.client.get("/v1/tasks")).json() == {"tasks": [], "next_cursor": None}


async def test_list_takes_states_and_labels(api: Api) -> None:
    answer = await api.client.get("/v1/sandboxes?state=running&state=failed&label=team=a&label=env=&all=true&limit=1")
    assert answer.status_code == 200, answer.text


async def test_upload_is_streamed_in_and_named(api: Api) -> None:
    async def chunks():  # type: ignore[no-untyped-def]
        for _ in range(64):
            yield b"\0" * 65536

    answer = await api.client.post("/v1/uploads", content=chunks(), headers={"Content-Type": "application/x-tar"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"].startswith("upl_") and answer.json()["size"] == 64 * 65536


async def test_key_is_shown_once_and_listed_without_its_secret(api: Api) -> None:
    made = (await api.client.post("/v1/keys", json={"name": "ci"})).json()
    listed = await api.client.get("/v1/keys")
    assert made["key"].startswith("hk_") and made["key"] not in listed.text
    assert [key["name"] for key in listed.json()["keys"]] == ["first key", "ci"]


async def test_secrets_are_listed_without_their_values(api: Api) -> None:
    value = "ghp_0123456789abcdefABCDEF0123456789abcd"
    body = {"value": value, "hosts": ["api.github.com"]}
    made = await api.client.put("/v1/secrets/GITHUB_TOKEN", json=body)
    assert made.status_code == 200 and made.json()["places"] == ["bearer", "basic"], made.text
    listed = await api.client.get("/v1/secrets")
    assert [each["name"] for each in listed.json()["secrets"]] == ["GITHUB_TOKEN"]
    wrong = [{"hosts": []}, {"hosts": ["192.0.2.1"]}, {"places": ["path"]}, {"value": value[:5]}, {"value": [value]}]
    refused = [await api.client.put("/v1/secrets/OTHER", json=body | change) for change in wrong]
    refused.append(await api.client.put("/v1/secrets/not-a-name", json=body))
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(400, "invalid_request")}
    assert not any(value[4:] in each.text for each in [made, listed, *refused])
    assert (await api.client.post("/v1/secrets/rekey")).json() == {"secrets": 1}
    assert (await api.client.delete("/v1/secrets/GITHUB_TOKEN")).status_code == 204
    assert (await api.client.delete("/v1/secrets/GITHUB_TOKEN")).status_code == 404


async def test_last_key_is_not_revoked(api: Api) -> None:
    (only,) = (await api.client.get("/v1/keys")).json()["keys"]
    answer = await api.client.delete(f"/v1/keys/{only['id']}")
    assert answer.status_code == 409 and answer.json()["hint"]


async def test_answers_that_hold_keys_are_not_cached(api: Api) -> None:
    answer = await api.client.post("/v1/keys", json={"name": "ci"})
    assert answer.headers["cache-control"] == "no-store"


async def test_a_rollback_names_a_snapshot_or_a_turn(api: Api) -> None:
    for path in (f"/v1/tasks/tsk_{'a' * 22}/rollback", f"/v1/sandboxes/sbx_{'a' * 22}/rollback"):
        for body in ({}, {"snapshot": "snp_" + "a" * 22, "turn": 1}, {"turn": -1}):
            answer = await api.client.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text
        assert (await api.client.post(path, json={"turn": 1})).status_code == 404
