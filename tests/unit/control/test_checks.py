"""What a request may say: every refusal names the field."""

from __future__ import annotations

from typing import Any

import pytest

from hutch.control.checks import check
from hutch.control.outputs import below
from hutch.errors import (
    HutchError,
    InvalidPath,
    InvalidRequest,
    MissingLlmKey,
    PayloadTooLarge,
    TemplateNotBuilt,
    UnknownAgent,
    UnknownTemplate,
)
from hutch.model import CreateSandbox, Resources, TemplateInfo
from hutch.settings import Settings

SIZE = Resources(cpus=1, memory_mib=512, disk_mib=512, pids=128)
TEMPLATES = [
    TemplateInfo(name="standard", description="", resources=SIZE, image="1"),
    TemplateInfo(name="claude-code", description="", resources=SIZE, image="2", agents=["claude-code"]),
    TemplateInfo(name="raw", description="", resources=SIZE),
]
TASK = {"agent": "command", "task": "true"}
CLAUDE = {"agent": "claude-code", "task": "do it", "template": "claude-code", "llm_key": "sk-ant-1"}
URL = {"type": "url", "url": "https://example.com/x"}


def try_(**fields: Any) -> TemplateInfo:
    return check(CreateSandbox.model_validate(fields), TEMPLATES, Settings())


def test_a_fork_needs_no_image_of_its_template() -> None:
    assert try_(template="raw", **{"from": "snp_" + "a" * 22}).name == "raw"


@pytest.mark.parametrize("fields", [{}, TASK, CLAUDE, TASK | {"llm_key": "sk-1"}, {"labels": {"a": ""}}])
def test_good_ones(fields: dict[str, Any]) -> None:
    assert try_(**fields).name == fields.get("template", "standard")


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"template": "standrad"}, UnknownTemplate, "template"),
        ({"template": "raw"}, TemplateNotBuilt, "template"),
        ({"task": "x"}, InvalidRequest, "task"),
        ({"llm_key": "x"}, InvalidRequest, "llm_key"),
        ({"outputs": ["x"]}, InvalidRequest, "outputs"),
        ({"inputs": [URL | {"path": "x"}]}, InvalidRequest, "inputs"),
        ({"agent": "command"}, InvalidRequest, "task"),
        ({"agent": "command", "task": " \n"}, InvalidRequest, "task"),
        ({"agent": "command", "task": "a\0b"}, InvalidRequest, "task"),
        ({"agent": "command", "task": "é" * (4 << 20) + "x"}, PayloadTooLarge, "task"),
        ({"agent": "nobody", "task": "x"}, UnknownAgent, "agent"),
        ({k: v for k, v in CLAUDE.items() if k != "llm_key"}, MissingLlmKey, "llm_key"),
        (CLAUDE | {"llm_key": "two words"}, InvalidRequest, "llm_key"),
        (CLAUDE | {"llm_key": ""}, InvalidRequest, "llm_key"),
        (CLAUDE | {"template": "standard"}, InvalidRequest, "template"),
        (TASK | {"outputs": ["../x"]}, InvalidPath, "outputs"),
        (TASK | {"inputs": [URL | {"path": "dir/"}]}, InvalidPath, "inputs"),
        (TASK | {"inputs": [URL | {"path": "a\0"}]}, InvalidPath, "inputs"),
        ({"env": {"A=B": "x"}}, InvalidRequest, "env"),
        ({"env": {"": "x"}}, InvalidRequest, "env"),
        ({"env": {"A": "x\0"}}, InvalidRequest, "env"),
        ({"labels": {"": "x"}}, InvalidRequest, "labels"),
        ({"labels": {"a": "x" * 1025}}, InvalidRequest, "labels"),
        ({"lifetime": 1e12}, InvalidRequest, "lifetime"),
    ],
)
def test_bad_ones(fields: dict[str, Any], error: type[HutchError], field: str) -> None:
    with pytest.raises(error) as caught:
        try_(**fields)
    assert caught.value.extra["field"] == field


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UnknownTemplate, match="Did you mean standard"):
        try_(template="standrad")


@pytest.mark.parametrize(
    ("globs", "base", "relative"),
    [
        (["a/*", "**"], "/home/user", ["a/*", "**"]),
        (["/home/user/out/*"], "/home/user", ["out/*"]),
        (["/tmp/x", "out/*"], "/", ["tmp/x", "home/user/out/*"]),
    ],
)
def test_outputs_are_looked_for_below_one_directory(globs: list[str], base: str, relative: list[str]) -> None:
    assert below("/home/user", globs) == (base, relative)
