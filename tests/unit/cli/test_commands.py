"""The command line against a scripted server: what is sent, what is said, with which exit code."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hutch.cli.session import exit_code
from hutch.model import Task
from tests.unit.cli.conftest import Hutch
from tests.unit.sdk.server import SANDBOX_ID, TASK_ID, Server, begin, event, problem, sandbox, task

OTHER = "sbx_" + "ab" * 11


def test_version(hutch: Hutch) -> None:
    assert hutch("version").out == "hutch 0.1.0\n"
    assert hutch("version", "--json").json["hutch"] == "0.1.0"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run", "--timeout", "5x", "do"],
        ["run", "--memory", "lots", "do"],
        ["run", "--agent", "command", ""],
        ["run", "--env", "=x", "--", "ls"],
        ["run", "--label", "x", "--", "ls"],
        ["exec", "k3v"],
        ["exec", "k3v", "--json", "--", "ls"],
        ["logs"],
        ["shell", "x", "--template", "standard"],
        ["ps", "--label", "x"],
    ],
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(at: Server, hutch: Hutch, arguments: list[str]) -> None:
    said = hutch(*arguments)
    assert said.code == 2
    assert "Traceback" not in said.err and said.out == ""
    assert at.seen == []


def test_no_key_is_one_line_and_a_hint(hutch: Hutch) -> None:
    said = hutch("ps")
    assert said.code == 1 and said.out == ""
    first, second = said.err.strip().splitlines()
    assert first.startswith("error: there is no API key") and second.startswith("hint:  ")


def test_no_server_is_one_line_and_a_hint(hutch: Hutch) -> None:
    said = hutch("--url", "http://127.0.0.1:1", "--api-key", "hk_x", "ps", "--json")
    assert said.code == 1
    assert said.json["code"] == "server_unavailable"
    assert "no server answers" in said.err and "hutch up" in said.err and "Traceback" not in said.err


def test_agent_without_its_key(at: Server, hutch: Hutch) -> None:
    said = hutch("run", "--agent", "claude-code", "do it")
    assert said.code == 1 and "ANTHROPIC_API_KEY is not set" in said.err and "--llm-key-env" in said.err
    said = hutch("run", "do it")
    assert said.code == 1 and "which agent?" in said.err
    assert at.seen == []


def lists(server: Server, *found: dict[str, Any]) -> None:
    @server.on("GET", "/v1/sandboxes")
    async def sandboxes(request: web.Request) -> web.StreamResponse:
        running = [each for each in found if request.query.get("all") or each["state"] == "running"]
        return web.json_response({"sandboxes": running, "next_cursor": None})


def test_ps(at: Server, hutch: Hutch) -> None:
    lists(at, sandbox(labels={"team": "a\x1b[2Jb"}), sandbox(id=OTHER, state="failed", reason="x" * 500))
    said = hutch("ps")
    assert said.code == 0 and "sbx_aaaaaaaa" in said.out and "team=ab" in said.out and "failed" not in said.out
    assert "\x1b" not in said.out
    assert SANDBOX_ID in hutch("ps", "--full").out
    assert hutch("ps", "-q", "--all").out.split() == [SANDBOX_ID, OTHER]
    assert [each["state"] for each in hutch("ps", "-a", "--json").json] == ["running", "failed"]


def test_ps_of_nothing(at: Server, hutch: Hutch) -> None:
    lists(at)
    said = hutch("ps")
    assert said.out == "" and "no sandboxes" in said.err
    assert hutch("ps", "--json").json == []


def deletes(server: Server, *ids: str) -> None:
    for id in ids:

        @server.on("DELETE", f"/v1/sandboxes/{id}")
        async def delete(request: web.Request) -> web.StreamResponse:
            return web.Response(status=204)


def test_kill_by_the_beginning_of_the_id(at: Server, hutch: Hutch) -> None:
    lists(at, sandbox(), sandbox(id=OTHER))
    deletes(at, SANDBOX_ID, OTHER)
    assert hutch("kill", "sbx_aaa").out == SANDBOX_ID + "\n"
    assert hutch("kill", "abab").out == OTHER + "\n"
    assert hutch("kill", OTHER).out == OTHER + "\n"


def test_kill_what_is_not_there_or_not_clear(at: Server, hutch: Hutch) -> None:
    lists(at, sandbox(), sandbox(id=OTHER))
    said = hutch("kill", "sbx_a")
    assert said.code == 1 and "is the beginning of 2 ids" in said.err
    said = hutch("kill", "zzz")
    assert said.code == 1 and "no sandbox 'zzz'" in said.err
    said = hutch("kill")
    assert said.code == 1 and "nothing to kill" in said.err


def test_kill_all_says_which_failed(at: Server, hutch: Hutch) -> None:
    lists(at, sandbox(), sandbox(id=OTHER))
    deletes(at, SANDBOX_ID)

    @at.on("DELETE", f"/v1/sandboxes/{OTHER}")
    async def delete(request: web.Request) -> web.StreamResponse:
        return problem(500, "internal_error", "no")

    said = hutch("kill", "--all")
    assert said.code == 1 and said.out == SANDBOX_ID + "\n" and f"{OTHER}: no" in said.err
    assert [bool(each["error"]) for each in hutch("kill", "--all", "--json").json] == [False, True]


def runs(server: Server, ending: dict[str, Any], events: bytes = b"") -> list[dict[str, Any]]:
    """A server on which a task is made, tells its events, and ends."""
    bodies: list[dict[str, Any]] = []

    @server.on("POST", "/v1/sandboxes")
    async def create(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response(sandbox(task=task()), status=201)

    @server.on("POST", "/v1/uploads")
    async def upload(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"id": "upl_" + "a" * 22, "size": 1, "expires_at": "2026-11-22T00:00:00Z"}, status=201)

    @server.on("GET", f"/v1/tasks/{TASK_ID}/events")
    async def stream(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "text/event-stream")
        await response.write(events + event(50, "result", **ending))
        return response

    @server.on("GET", f"/v1/tasks/{TASK_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(task(state=ending["state"], result=ending))

    return bodies


def test_run_a_command(at: Server, hutch: Hutch) -> None:
    told = event(1, "output", stream="stdout", text="hello") + event(2, "output", stream="stderr", text="oops")
    bodies = runs(at, {"state": "succeeded", "exit_code": 0}, told)
    said = hutch(
        "run", "--memory", "2G", "-l", "a=b", "--timeout", "10m", "-e", "X=1", "--", "sh", "-c", "echo 'hello'"
    )
    assert said.code == 0
    assert said.out == "hello\n"
    assert "oops" in said.err and "✓ succeeded" in said.err
    assert bodies == [
        {
            "template": "standard",
            "agent": "command",
            "task": "sh -c 'echo '\"'\"'hello'\"'\"''",
            "budget": {"run_time": 600.0},
            "resources": {"memory_mib": 2048},
            "labels": {"a": "b"},
            "env": {"X": "1"},
        }
    ]


def test_run_an_agent_with_its_key_and_inputs(
    at: Server, hutch: Hutch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    (tmp_path / "repo").mkdir()
    bodies = runs(at, {"state": "succeeded"}, event(1, text="Hi"))
    said = hutch("run", "--input", f"{tmp_path}/repo", "--output", "*.md", "--budget-usd", "1", "write", "it")
    assert said.code == 0 and said.out == "● Hi\n"
    assert "sk-secret" not in said.out + said.err
    assert "nothing matches *.md" in said.err
    body = bodies[0]
    assert (body["agent"], body["template"], body["task"]) == ("claude-code", "claude-code", "write it")
    assert body["llm_key"] == "sk-secret" and body["budget"] == {"llm_usd": 1.0} and body["outputs"] == ["*.md"]
    assert body["inputs"][0]["type"] == "upload"


def test_run_reads_a_long_prompt_from_standard_input(at: Server, tmp_path: Path) -> None:
    bodies = runs(at, {"state": "succeeded"})
    command = [sys.executable, "-m", "hutch.cli", "run", "--agent", "command", "-"]
    prompt = "echo " + "x" * 2_000_000
    done = subprocess.run(command, input=prompt, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bodies[0]["task"] == prompt


def test_run_as_json_is_one_object_a_line(at: Server, hutch: Hutch) -> None:
    runs(at, {"state": "failed", "exit_code": 9, "error": "agent_crashed"}, event(1, "output", text="x"))
    said = hutch("run", "--json", "--", "false")
    assert said.code == 9
    assert [line["type"] for line in said.lines] == ["sandbox", "output", "result", "end"]
    assert said.lines[-1]["task"]["result"]["error"] == "agent_crashed"
    assert said.err == ""


def test_run_detached(at: Server, hutch: Hutch) -> None:
    runs(at, {"state": "succeeded"})
    assert hutch("run", "-d", "--", "ls").out == TASK_ID + "\n"
    assert hutch("run", "-d", "--json", "--", "ls").json["task"]["id"] == TASK_ID


def test_second_interrupt_of_run_leaves_the_task_running(at: Server) -> None:
    runs(at, {"state": "succeeded"})
    cancelled = threading.Event()

    @at.on("GET", f"/v1/tasks/{TASK_ID}/events")
    async def stream(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "text/event-stream")
        await response.write(event(1, "output", stream="stdout", text="ready"))
        await asyncio.sleep(30)  # an agent that takes its time to stop
        return response

    @at.on("POST", f"/v1/tasks/{TASK_ID}/cancel")
    async def cancel(request: web.Request) -> web.StreamResponse:
        cancelled.set()
        return web.json_response(task())

    command = [sys.executable, "-m", "hutch.cli", "run", "--", "sleep", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert cancelled.wait(10)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert "Ctrl-C again leaves it running" in said and "detached; it runs on" in said and "Traceback" not in said


def test_run_with_a_missing_input_makes_nothing(at: Server, hutch: Hutch) -> None:
    said = hutch("run", "--input", "/no/such", "--", "ls")
    assert said.code == 1 and "does not exist" in said.err and at.seen == []


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("succeeded", 0, 0),
        ("failed", 7, 7),
        ("failed", None, 1),
        ("failed", 0, 1),
        ("budget_exceeded", 137, 3),
        ("timed_out", 137, 4),
        ("cancelled", 143, 5),
    ],
)
def test_exit_codes(state: str, code: int | None, expected: int) -> None:
    ended = Task.model_validate(task(state=state, result={"state": state, "exit_code": code}))
    assert exit_code(ended) == expected


def test_logs_by_task_or_sandbox(at: Server, hutch: Hutch) -> None:
    runs(at, {"state": "failed", "exit_code": 3})

    @at.on("GET", "/v1/tasks")
    async def tasks(request: web.Request) -> web.StreamResponse:
        return web.json_response({"tasks": [task()], "next_cursor": None})

    @at.on("GET", f"/v1/tasks/{TASK_ID}/events")
    async def events(request: web.Request) -> web.StreamResponse:
        if "text/event-stream" in request.headers["Accept"]:
            response = await begin(request, "text/event-stream")
            await response.write(event(1, "output", stream="stdout", text="hello") + event(2, "result", state="failed"))
            return response
        start = int(request.query["from"])
        page = [{"offset": 1, "time": "2026-11-21T12:00:00Z", "type": "output", "data": {"text": "hello"}}][start - 1 :]
        return web.json_response({"events": page, "next": start + len(page)})

    for id in (TASK_ID, "aaa", SANDBOX_ID, "sbx_aaa"):
        said = hutch("logs", id)
        assert said.code == 0 and said.out == "hello\n", said.err
    assert hutch("logs", "-f", "tsk_aaa").code == 3
    assert hutch("logs", "--json", "aaa").lines[0]["data"] == {"text": "hello"}
    assert hutch("logs", "zzz").code == 1


def test_keys(at: Server, hutch: Hutch) -> None:
    key = {"id": "key_1", "name": "ci", "prefix": "hk_abc", "created_at": "2026-11-21T12:00:00Z"}
    revoked: list[str] = []

    @at.on("GET", "/v1/keys")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": [key, {**key, "id": "key_2", "revoked_at": "2026-11-21T12:00:00Z"}]})

    @at.on("POST", "/v1/keys")
    async def post(request: web.Request) -> web.StreamResponse:
        assert await request.json() == {"name": "ci", "expires_in": 86400.0}
        return web.json_response({**key, "key": "hk_abc_secret"}, status=201)

    @at.on("DELETE", "/v1/keys/key_1")
    async def delete(request: web.Request) -> web.StreamResponse:
        revoked.append("key_1")
        return web.Response(status=204)

    assert "ci" in hutch("key", "ls").out
    assert hutch("key", "create", "ci", "--expires-in", "1d").out == "hk_abc_secret\n"
    assert hutch("key", "revoke", "ci").code == 0
    assert hutch("key", "revoke", "hk_ab").code == 0
    assert revoked == ["key_1", "key_1"]
    assert hutch("key", "revoke", "nope").code == 1


def test_templates(at: Server, hutch: Hutch) -> None:
    found = {
        "name": "standard",
        "description": "Debian",
        "resources": sandbox()["resources"],
        "image": None,
    }

    @at.on("GET", "/v1/templates")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response({"templates": [found]})

    @at.on("POST", "/v1/templates/standard/build")
    async def build(request: web.Request) -> web.StreamResponse:
        response = await begin(request, "application/x-ndjson")
        built = {**found, "image": "abc", "image_bytes": 5 << 20}
        last: dict[str, Any] = {"type": "done", "template": built, "note": "no snapshot: disk\x1b full"}
        if (await request.json())["force"]:
            error = {"code": "template_build_failed", "detail": "step 1 said no", "hint": "read it"}
            last = {"type": "error", "problem": error}
        for message in (
            {"type": "log", "line": "x\x1b[2J"},
            {"type": "progress", "step": 1, "of": 2, "text": "a"},
            last,
        ):
            await response.write(json.dumps(message).encode() + b"\n")
        return response

    assert "not built" in hutch("template", "ls").out
    assert "not built" in hutch("template", "show", "standard").out
    assert hutch("template", "show", "nope").code == 1
    said = hutch("template", "build", "standard", "-v")
    assert said.code == 0 and "5.0 MiB" in said.out and "[1/2]" in said.err and "\x1b" not in said.err
    assert "no snapshot: disk" in said.err
    assert [line["type"] for line in hutch("template", "build", "all", "--json").lines] == ["log", "progress", "done"]
    said = hutch("template", "build", "--force", "standard")
    assert said.code == 1 and "step 1 said no" in said.err and "read it" in said.err
    found["image"] = "abc"
    for start in ({}, {"snapshot": True}, {"snapshot": True, "warm": 3}):
        found.update(start)
        word = "3 warm" if "warm" in start else "thaw" if start else "boot"
        assert word in hutch("template", "ls").out and word in hutch("template", "show", "standard").out


def test_tasks(at: Server, hutch: Hutch, tmp_path: Path) -> None:
    info = task(
        state="succeeded",
        result={"state": "succeeded", "text": "I did it"},
        outputs=[{"path": "report.md", "size": 5}],
        prompt="do\x1b[2J it",
    )

    @at.on("GET", "/v1/tasks")
    async def tasks(request: web.Request) -> web.StreamResponse:
        return web.json_response({"tasks": [info], "next_cursor": None})

    @at.on("GET", f"/v1/tasks/{TASK_ID}")
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(info)

    @at.on("POST", f"/v1/tasks/{TASK_ID}/cancel")
    async def cancel(request: web.Request) -> web.StreamResponse:
        return web.json_response(info)

    @at.on("GET", f"/v1/tasks/{TASK_ID}/outputs")
    async def outputs(request: web.Request) -> web.StreamResponse:
        from tests.unit.sdk.test_untar import member, tar_of

        return web.Response(body=tar_of((member("report.md"), b"hello")), content_type="application/x-tar")

    assert "succeeded" in hutch("task", "ls").out and "\x1b" not in hutch("task", "ls").out
    shown = hutch("task", "show", "aaa").out
    assert "I did it" in shown and "report.md" in shown
    assert hutch("task", "show", "aaa", "--json").json["id"] == TASK_ID
    assert "✓ succeeded" in hutch("task", "cancel", "aaa").err
    assert "report.md" in hutch("task", "outputs", "aaa").out
    assert hutch("task", "outputs", "aaa", "--to", str(tmp_path / "o")).code == 0
    assert (tmp_path / "o" / "report.md").read_text() == "hello"


def test_cp_needs_one_side_in_a_sandbox(at: Server, hutch: Hutch) -> None:
    for sides in (("a", "b"), ("x1:/a", "y1:/b")):
        said = hutch("cp", *sides)
        assert said.code == 1 and "one side is local" in said.err


def test_reader_that_goes_away_is_no_error(at: Server) -> None:
    lists(at, *[sandbox(id="sbx_" + f"{chr(97 + n % 20)}" * 22) for n in range(500)])
    command = f"{sys.executable} -m hutch.cli ps -q | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and done.stderr == "" and done.stdout.count("\n") == 1


def test_reference_page_is_current() -> None:
    script = Path(__file__).parent.parent.parent.parent / "scripts" / "generate_cli_docs.py"
    answer = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_every_command_takes_json_but_shell_and_what_prints_nothing_else() -> None:
    import typer.main
    from scripts.generate_cli_docs import commands

    from hutch.cli.main import application

    without = [
        path
        for path, command in commands("hutch", typer.main.get_command(application()))
        if not any("--json" in parameter.opts for parameter in command.params)
    ]
    assert set(without) == {"hutch shell", "hutch audit export"}


def test_the_budget_of_an_organisation(at: Server, hutch: Hutch) -> None:
    budget: dict[str, Any] = {"month_usd": 500.0}

    def answer() -> web.Response:
        used = {"day": {"usd": 3.5, "output_tokens": 1200}, "month": {"usd": 99.0, "unpriced_tokens": 7}}
        ends = {"day_ends": "2026-11-23T00:00:00Z", "month_ends": "2026-12-01T00:00:00Z"}
        return web.json_response({"budget": budget, **used, **ends})

    @at.on("GET", "/v1/llm/budget")
    async def show(request: web.Request) -> web.StreamResponse:
        return answer()

    @at.on("PUT", "/v1/llm/budget")
    async def change(request: web.Request) -> web.StreamResponse:
        budget.clear()
        budget.update(await request.json())
        return answer()

    said = hutch("budget", "set", "--day-usd", "5", "--day-tokens", "9000")
    assert said.code == 0 and budget == {"month_usd": 500.0, "day_usd": 5.0, "day_tokens": 9000}, said.err
    shown = hutch("budget", "show")
    assert "3.50" in shown.out and "1,200" in shown.out and "500.00" in shown.out and "7 tokens" in shown.err
    assert hutch("budget", "show", "--json").json["budget"]["day_tokens"] == 9000
    assert hutch("budget", "set", "--clear").code == 0 and budget == {}
    assert hutch("budget", "set").code == 1
