from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hutch.api.validation import explain
from hutch.errors import InvalidRequest
from hutch.model import CreateSandbox, ExecRequest

JSON = "application/json"
SECRET = "sk-ant-api03-this-must-never-be-seen"


def refused(body: Any, content_type: str = JSON) -> InvalidRequest:
    with pytest.raises(ValidationError) as caught:
        CreateSandbox.model_validate(body)
    errors = [error | {"loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return explain(errors, content_type)  # type: ignore[arg-type]


def test_names_the_field_its_value_and_what_would_be_right() -> None:
    problem = refused({"lifetime": -5}).to_problem()
    assert problem["field"] == "lifetime" and problem["value"] == -5
    assert problem["detail"] == "lifetime: input should be greater than 0"


def test_nested_fields_are_named_with_dots() -> None:
    assert refused({"resources": {"memory_mib": 1}}).extra["field"] == "resources.memory_mib"


def test_long_values_are_shortened() -> None:
    value = refused({"model": "x" * 5000}).extra["value"]
    assert len(value) == 64 and value.endswith("…")


@pytest.mark.parametrize(
    "body",
    [
        {"llm_key": {"nested": SECRET}},
        {"llm_key": [SECRET]},
        {"llmkey": SECRET},
        {"model": SECRET + " "},
        {"env": {"KEY": [SECRET]}},
        {"env": SECRET},
        {"inputs": [{"type": "url", "url": f"ftp://user:{SECRET}@host/", "path": "x"}]},
        {"budget": SECRET},
        {"task": [SECRET]},
        SECRET,
        [SECRET],
    ],
)
def test_secrets_are_never_repeated(body: Any) -> None:
    assert SECRET not in json.dumps(refused(body).to_problem())


def test_body_of_another_type_is_told_apart_from_a_wrong_field() -> None:
    error = refused(b"template=standard", "application/x-www-form-urlencoded")
    assert error.extra["field"] == "Content-Type" and "application/json" in str(error.hint)


def test_unknown_fields_are_said_to_be_unknown() -> None:
    assert refused({"tmplate": "x"}).detail == "tmplate: there is no such field"


def test_at_most_sixteen_errors_are_listed() -> None:
    assert len(refused({f"f{n}": n for n in range(1000)}).extra["errors"]) == 16


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*CreateSandbox.model_fields, *ExecRequest.model_fields])


@given(st.dictionaries(FIELDS, JSON_VALUES, max_size=4))
def test_every_refusal_can_be_written_as_strict_json(body: dict[str, Any]) -> None:
    for model in (CreateSandbox, ExecRequest):
        try:
            model.model_validate(body)
        except ValidationError as error:
            problem = explain(error.errors(), JSON).to_problem()  # type: ignore[arg-type]
            json.dumps(problem, allow_nan=False).encode()
