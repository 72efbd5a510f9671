from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hutch.api.app import create_app
from hutch.control.service import Control
from hutch.errors import BY_CODE
from hutch.settings import Settings

EXPORTED = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("api")
    settings = Settings(data_dir=root / "data", run_dir=root / "run")
    return create_app(settings, Control(settings), lambda key: None).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_exported_document_is_current(document: dict[str, Any]) -> None:
    assert json.loads(EXPORTED.read_text()) == document, "run scripts/export_openapi.py"


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    assert [name for name, operation in operations(document) if not operation.get("description")] == []


PUBLIC = (
    "GET /healthz",
    "GET /.well-known/openid-configuration",
    "GET /.well-known/jwks.json",
    "POST /identity/introspect",
)


def test_every_operation_but_the_public_ones_needs_a_key_and_documents_the_refusal(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if name in PUBLIC:
            assert "security" not in operation and "401" not in operation["responses"], name
        else:
            assert operation["security"] == [{"apiKey": []}] and "401" in operation["responses"], name


def test_errors_are_problems_and_never_422(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert status != "422", name
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (name, status)


def test_documented_codes_exist(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and status != "416":
                codes = response["description"].removeprefix("A problem: ").rstrip(".").replace("`", "").split(", ")
                assert all(BY_CODE[code].http_status == int(status) for code in codes), (name, status)


def test_no_reference_leads_nowhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas
