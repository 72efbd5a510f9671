"""Template builds, over a node without sandboxes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control.builds.bases import known_image
from hutch.control.builds.log import MOST_LINES, BuildLog
from hutch.control.builds.names import made_name, parse_name
from hutch.control.builds.service import BuildStatus
from hutch.control.builds.spec import BuildSpec, Step, step_keys
from hutch.control.builds.steps import StepFailed, _plain, expand
from hutch.control.service import Control
from hutch.errors import (
    Conflict,
    InvalidRequest,
    LimitReached,
    NodeUnavailable,
    NotFound,
    PayloadTooLarge,
    Unauthorized,
)
from hutch.model import MADE_NAME, CreateSandbox, ResourcesOverride
from hutch.settings import Settings
from hutch.store import DEFAULT_ORG
from hutch.store.template_files import FilesRow
from hutch.store.templates import BuildRow, TemplateRow

SPEC = BuildSpec(image="debian:12", start="serve", ready="true")
NOTHING = ResourcesOverride()


async def begin(control: Control, name: str = "mine", spec: BuildSpec = SPEC, *tags: str) -> BuildRow:
    template, build = await control.builds.request(DEFAULT_ORG, name, tags, NOTHING)
    await control.builds.start(DEFAULT_ORG, template.id, build.id, spec)
    return build


async def ended(control: Control, build: BuildRow) -> BuildStatus:
    until = time.monotonic() + 20
    while True:
        status = await control.builds.status(DEFAULT_ORG, "mine", build.id, 0, 100, 0)
        if status.build.state in ("ready", "error"):
            return status
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def test_a_template_that_is_built_is_its_organisations_alone(control: Control, node: ModelNode) -> None:
    status = await ended(control, await begin(control))
    assert status.build.state == "ready" and next(line.message for line in status.lines) == "[base] FROM debian:12"
    (made,) = node.made
    assert await control.builds.made(DEFAULT_ORG, "team/mine:default") == made == status.build.made
    assert (node.made[made].start, node.made[made].ready, node.made[made].layer) == (["serve"], "true", None)
    assert [each.name for each in await control.templates(org="org_other")] == ["standard"]
    assert await control.builds.made("org_other", "mine") is None
    with pytest.raises(Exception, match="no template"):
        await control.create(CreateSandbox(template=made), org="org_other")
    with pytest.raises(NotFound):
        await control.builds.status("org_other", "mine", status.build.id, 0, 1, 0)


async def test_tags_are_the_later_builds_whichever_ends_last(control: Control, node: ModelNode) -> None:
    node.doors["make_template"] = asyncio.Event()
    first = await begin(control, "mine", SPEC)
    second = await begin(control, "mine", SPEC.model_copy(update={"start": "other"}))
    node.doors["make_template"].set()
    await asyncio.gather(ended(control, first), ended(control, second))
    assert {tag.tag: tag.build_id for tag in await control.builds.tags(DEFAULT_ORG, "mine")} == {"default": second.id}
    store = control.store.templates
    row = await store.build(first.id)
    assert row is not None
    await store.set_tags(row.template_id, second.id, ["v1"], 5.0)
    assert (await control.builds.assign_tags(DEFAULT_ORG, "mine", ["v1"]))[1] == ["v1"]
    await control.builds.remove_tags(DEFAULT_ORG, "mine", ["v1", "none"])
    assert [tag.tag for tag in await control.builds.tags(DEFAULT_ORG, "mine")] == ["default"]


async def test_what_the_node_says_of_a_failure_is_the_reason(control: Control, node: ModelNode) -> None:
    problem = {"code": "template_build_failed", "detail": "it does not start", "log": "no database"}
    node.messages = [{"type": "log", "line": "x"}, {"type": "error", "problem": problem}]
    status = await ended(control, await begin(control))
    assert status.build.reason == {"message": "it does not start: no database", "step": "finalize"}
    assert await control.builds.exists(DEFAULT_ORG, "mine") is None


async def test_a_node_that_goes_away_is_waited_for_three_times(control: Control, node: ModelNode) -> None:
    node.refusals["make_template"] = NodeUnavailable("gone")
    status = await ended(control, await begin(control))
    assert node.calls["make_template"] == 3 and status.build.state == "error"
    assert (status.build.reason or {})["message"] == "given up after 3 attempts: gone"


async def test_a_build_that_a_restart_cuts_off_goes_on(settings: Settings, node: ModelNode) -> None:
    node.doors["make_template"] = asyncio.Event()
    async with controlling(settings, node) as control:
        build = await begin(control)
        while not node.calls["make_template"]:
            await asyncio.sleep(0.01)
    node.doors.clear()
    async with controlling(settings, node) as control:
        assert (await ended(control, build)).build.attempts == 2


async def test_nobody_waits_for_all_builds_of_another_and_none_begins_for_ever(
    settings: Settings, node: ModelNode
) -> None:
    node.doors["make_template"] = asyncio.Event()
    async with controlling(settings, node) as control:
        first, *_ = [await begin(control, spec=SPEC.model_copy(update={"start": f"{n}"})) for n in range(3)]
        template, other = await control.builds.request("org_other", "theirs", (), NOTHING)
        await control.builds.start("org_other", template.id, other.id, SPEC)
        tired = await begin(control)
        await control.store.templates.change(tired.id, attempts=10)
        assert await control.store.templates.unfinished(DEFAULT_ORG) == 4
    async with controlling(settings, node) as control:
        async with asyncio.timeout(20):
            while len(control.builds._running) < settings.builds_at_once:
                await asyncio.sleep(0.01)
        assert set(control.builds._running) == {first.id, other.id}
        node.doors["make_template"].set()
        reason = (await ended(control, tired)).build.reason or {}
        assert "given up" in reason["message"]


async def test_an_organisation_keeps_so_many_templates(settings: Settings, node: ModelNode) -> None:
    async with controlling(settings.model_copy(update={"templates_per_org": 2}), node) as control:
        await ended(control, await begin(control))
        await control.builds.assign_tags(DEFAULT_ORG, "mine", ["v1"])
        with pytest.raises(LimitReached):
            await control.builds.request(DEFAULT_ORG, "other", [], NOTHING)
        with pytest.raises(LimitReached):
            await control.builds.assign_tags(DEFAULT_ORG, "mine", ["v2"])
        assert (await ended(control, await begin(control))).build.state == "ready"  # the same anew
        await control.builds.remove_tags(DEFAULT_ORG, "mine", ["v1"])
        await control.builds.request(DEFAULT_ORG, "other", [], NOTHING)
        with pytest.raises(LimitReached):  # that one waits
            await control.builds.request(DEFAULT_ORG, "third", [], NOTHING)


async def test_a_build_may_be_started_once(control: Control) -> None:
    build = await begin(control)
    await control.builds.start(DEFAULT_ORG, "mine", build.id, SPEC)  # a repetition
    with pytest.raises(Conflict):
        await control.builds.start(DEFAULT_ORG, "mine", build.id, SPEC.model_copy(update={"start": "other"}))
    with pytest.raises(NotFound):
        await control.builds.start(DEFAULT_ORG, "other", build.id, SPEC)


async def test_files_that_were_not_sent_fail_their_step(control: Control) -> None:
    step = Step(type="COPY", args=["a", "b"], files="abc")
    status = await ended(control, await begin(control, "mine", SPEC.model_copy(update={"steps": [step]})))
    assert (status.build.reason or {})["step"] == "1" and "not sent" in (status.build.reason or {})["message"]


async def test_what_is_removed_goes_from_the_node_when_no_sandbox_needs_it(control: Control, node: ModelNode) -> None:
    made = (await ended(control, await begin(control))).build.made
    assert made is not None
    sandbox = await control.create(CreateSandbox(template=made))
    assert await control.builds.remove(DEFAULT_ORG, "mine") and not await control.builds.remove(DEFAULT_ORG, "mine")
    await control.builds._tidying.run()
    assert made in node.made
    await control.delete(sandbox.id)
    await control.builds._tidying.run()
    assert node.made == {}


async def sent(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_uploads_are_kept_by_their_content(control: Control, settings: Settings) -> None:
    uploads = control.builds.uploads
    assert not await uploads.present("o", "h1")
    await uploads.take_in("o", "h1", sent(b"abc", b"d"))
    await uploads.take_in("o", "h2", sent(b"abcd"))
    assert await uploads.present("o", "h1") and not await uploads.present("other", "h1")
    assert len([key async for key in control._context.blobs.keys("templates/")]) == 1
    with pytest.raises(InvalidRequest):
        await uploads.take_in("o", "h3", sent())
    control.store.template_files.total = lambda org: _value(settings.max_upload + 1)  # type: ignore[method-assign]
    with pytest.raises(PayloadTooLarge):
        await uploads.take_in("o", "h3", sent(b"x"))
    await uploads.forget_unused(time.time() + 1)
    assert [key async for key in control._context.blobs.keys("templates/")] == []


async def test_files_that_nobody_knows_are_removed_at_the_next_start(
    settings: Settings, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    async with controlling(settings, node) as control:
        uploads, blobs = control.builds.uploads, control._context.blobs
        await uploads.take_in("o", "kept", sent(b"kept"))
        monkeypatch.setattr(control.store.template_files, "put", killed)
        with pytest.raises(KeyboardInterrupt):  # renamed into its place, and not written down
            await uploads.take_in("o", "lost", sent(b"lost"))
        await blobs.put("templates/o/sent-half", sent(b"ha"))
        assert len([key async for key in blobs.keys("templates/")]) == 3
    async with controlling(settings, node) as control:
        assert len([key async for key in control._context.blobs.keys("templates/")]) == 1
        assert await control.builds.uploads.present("o", "kept")
        assert not await control.builds.uploads.present("o", "lost")


async def test_files_that_are_sent_anew_count_until_they_are_removed(control: Control, settings: Settings) -> None:
    async def sent(*pieces: bytes) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)

    uploads, files = control.builds.uploads, control.store.template_files
    for content in (b"one", b"two", b"two"):
        await uploads.take_in("o", "h", sent(content))
    assert await files.total("o") == 6 and await uploads.present("o", "h")
    await uploads.forget_unused(0)  # a build may need the first one still
    assert await files.total("o") == 6
    uploads._context = replace(
        control._context, settings=settings.model_copy(update={"build_timeout": -1.0, "max_upload": 10})
    )
    await uploads.forget_unused(0)
    assert len([key async for key in control._context.blobs.keys("templates/")]) == 1 and await files.total("o") == 3
    both = (uploads.take_in("o", hash, sent(*[hash.encode()] * 4)) for hash in ("a", "b"))
    found = await asyncio.gather(*both, return_exceptions=True)
    assert any(isinstance(each, PayloadTooLarge) for each in found) and await files.total("o") <= 10


def test_variables_that_double_themselves_come_to_an_end() -> None:
    value = "x" * 1000
    with pytest.raises(StepFailed, match="longer than 128"):
        for _ in range(64):
            value = expand("$A$A", {"A": value})
    with pytest.raises(StepFailed):
        expand("$A" * 100_000, {"A": "x" * 100_000})


async def _value(value: int) -> int:
    return value


@pytest.mark.parametrize("change", ["expires=1", "expires=x", "signature=00", "expires=99999999999"])
async def test_a_link_is_good_for_what_it_was_made_for(control: Control, change: str) -> None:
    uploads = control.builds.uploads
    query = dict(pair.split("=") for pair in uploads.query("o", "tpl_1", "h").split("&"))
    uploads.check("o", "tpl_1", "h", query["expires"], query["signature"])
    name, value = change.split("=")
    query[name] = value
    with pytest.raises(Unauthorized):
        uploads.check("o", "tpl_1", "h", query["expires"], query["signature"])


async def test_the_log_is_bounded_and_without_gaps(control: Control) -> None:
    store = control.store
    await store.templates.ensure(TemplateRow("tpl_1", "o", "n", 1.0))
    await store.templates.add_build(BuildRow("b", "tpl_1", "o", 1.0))
    async with BuildLog(store.template_logs, "b", 0) as log:
        log.printed((f"line {n} \ud800" for n in range(MOST_LINES + 50)), 1, "1")
    assert log.tail[-1].startswith(f"line {MOST_LINES + 49}")
    found = await store.template_logs.page("b", MOST_LINES - 1, 100)
    assert [line.message[:20] for line in found] == [f"line {MOST_LINES - 1} ?", "What the steps print"]


@pytest.mark.parametrize("name", ["", "a b", "x/..", "x:", "x:a b", "é", "a" * 101, "x\0"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_name(name)


def test_names() -> None:
    assert (parse_name("team/My.App:v1").name, parse_name("x").tag) == ("my.app", None)
    assert made_name("my.app_--", "0123456789abcdef") == "my-app-0123456789ab"
    import re

    assert re.fullmatch(MADE_NAME, made_name("_" * 99, "f" * 64)) and re.fullmatch(
        MADE_NAME, made_name("a" * 99, "f" * 64)
    )


@pytest.mark.parametrize(
    "step",
    [
        {"type": "RUN", "args": []},
        {"type": "COPY", "args": ["a", "b"]},
        {"type": "COPY", "args": ["a", "b"], "files": "../x"},
        {"type": "ENV", "args": ["A", "1", "B"]},
        {"type": "RUN", "args": ["a\0"]},
        {"type": "EXPOSE", "args": ["80"]},
    ],
)
def test_steps_that_are_none(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Step.model_validate(step)


def test_a_template_begins_with_one_thing() -> None:
    for fields in ({}, {"image": "a", "template": "b"}):
        with pytest.raises(ValidationError):
            BuildSpec.model_validate(fields)


def test_keys_say_all_that_led_to_a_state() -> None:
    steps = [Step(type="RUN", args=["a"]), Step(type="COPY", args=["a", "b"], files="h")]
    keys = step_keys("o", "image", steps, {"h": "1"})
    assert keys[0] == step_keys("o", "image", steps[:1], {})[0]
    others = [step_keys("p", "image", steps, {"h": "1"}), step_keys("o", "other", steps, {"h": "1"})]
    assert all(keys[0] != other[0] and keys[1] != other[1] for other in others)
    assert step_keys("o", "image", steps, {"h": "2"})[1] != keys[1]


def test_variables_in_values() -> None:
    assert expand("$A/${B}x\\$A$NONE", {"A": "1", "B": "2"}) == "1/2x$A"


@pytest.mark.parametrize(
    ("source", "place"), [("a/b", "a/b"), ("./a/../b/", "b"), ("a/*.txt", "a"), ("*", "."), (".", "."), ("a[b", ".")]
)
def test_where_copies_begin(source: str, place: str) -> None:
    assert _plain(source) == place


@pytest.mark.parametrize("source", ["..", "../a", "a/../../b", "/etc"])
def test_copies_do_not_lead_out(source: str) -> None:
    with pytest.raises(StepFailed):
        _plain(source)


def test_images_that_hutch_stands_for() -> None:
    for ours in (
        "e2bdev/base",
        "debian:stable",
        "docker.io/library/debian:12-slim",
        "python:3.11-slim",
        "node:lts",
        "python:3",
    ):
        assert known_image(ours) is not None, ours
    for other in (
        "debian:11",
        "python:3.12",
        "node:20",
        "node:lts-alpine",
        "ubuntu",
        "alpine:3",
        "python:3-alpine",
        "x/debian",
    ):
        assert known_image(other) is None, other


def test_blobs_are_of_one_organisation() -> None:
    assert FilesRow("o", "h", "d", 1, 1.0, 1.0).blob != FilesRow("p", "h", "d", 1, 1.0, 1.0).blob
