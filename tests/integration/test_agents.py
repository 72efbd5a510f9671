"""The adapters with the real CLIs, in real sandboxes of a real node, against a scripted provider outside."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.node_host import NodeHost, Ran

from hutch.agents import AgentContext, Outcome, Parsed, get
from hutch.model import EventType, LlmUsage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

KEY = "sk-the-real-key-8f6c2b"
PLACEHOLDER = "hutch-placeholder-1"
CLIS = ["claude-code", "codex"]


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The scripted model as a process of its own; its URL."""
    argv = [sys.executable, "-m", "hutch.demo.scripted_model", "--key", KEY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture(scope="module")
def host(provider: str) -> Iterator[NodeHost]:
    for template in CLIS:
        subprocess.run([sys.executable, "-m", "hutch.images", "build", template], check=True, timeout=1200)
    host = NodeHost(anthropic_base_url=provider, openai_base_url=f"{provider}/v1")
    try:
        host.start()
        yield host
    finally:
        host.close()


def boot(host: NodeHost, name: str, key: str = KEY, **limits: Any) -> dict[str, Any]:
    grant = {"provider": get(name).provider, "key": key, "placeholder": PLACEHOLDER, **limits}
    return host.boot(template=name, llm=grant, resources={"memory_mib": 1024, "pids": 1024, "disk_mib": 1024})


def run(host: NodeHost, sandbox: dict[str, Any], name: str, prompt: str) -> tuple[Ran, list[Parsed], Outcome]:
    """The agent as the server starts it; what it printed, as events."""
    agent, outcome = get(name), Outcome()
    home = sandbox["workdir"]
    launch = agent.launch(AgentContext(prompt, None, home, "http://llm.hutch", PLACEHOLDER))
    for path, content in launch.files.items():
        write(host, sandbox, f"{home}/{path}", content)
    stdin = "none" if launch.stdin is None else {"data": base64.b64encode(launch.stdin).decode()}
    ran = start(host, sandbox, argv=launch.argv, env=launch.env, cwd=home, stdin=stdin)
    lines = ran.stdout.encode().splitlines()
    return ran, [event for line in lines for event in agent.parse(line, outcome)], outcome


def start(host: NodeHost, sandbox: dict[str, Any], **options: Any) -> Ran:
    process = "exe_" + secrets.token_hex(11)
    begin(host, sandbox, process, **options)
    return host.follow(sandbox, process, timeout=200)


def begin(host: NodeHost, sandbox: dict[str, Any], process: str, **options: Any) -> None:
    connection = host.guest(sandbox)
    headers = {"X-Access-Token": sandbox["guest_token"], "Content-Type": "application/json"}
    connection.request("POST", "/hutch/processes", json.dumps({"id": process, "retain": "all", **options}), headers)
    response = connection.getresponse()
    assert response.status == 201, response.read()
    connection.close()


def write(host: NodeHost, sandbox: dict[str, Any], path: str, content: bytes) -> None:
    connection = host.guest(sandbox)
    connection.request("PUT", f"/hutch/files?path={path}", content, {"X-Access-Token": sandbox["guest_token"]})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()


def usage(host: NodeHost, sandbox: dict[str, Any]) -> LlmUsage:
    return LlmUsage(**host.journal(sandbox["id"], "llm_usage")[-1]["data"]["usage"])


@pytest.mark.parametrize("name", CLIS)
def test_agent_works_with_its_tools_and_says_what_it_did(host: NodeHost, name: str) -> None:
    sandbox = boot(host, name)
    ran, events, outcome = run(host, sandbox, name, "Look around and write report.md")
    assert ran.exit_code == 0, ran.stderr
    assert outcome.error is None
    assert outcome.text is not None and outcome.text.startswith("Done.")
    calls = [event.data for event in events if event.type == EventType.TOOL_CALL]
    updates = {event.data["id"]: event.data for event in events if event.type == EventType.TOOL_CALL_UPDATE}
    assert len(calls) == 4
    assert all(updates[call["id"]]["status"] == "completed" for call in calls)
    assert not [event for event in events if event.type == EventType.OUTPUT], "every line is understood"
    report = host.exec(sandbox, "cat report.md; stat -c %U report.md")
    assert "Look around and write report.md" in report.stdout and report.stdout.rstrip().endswith(sandbox["user"])
    counted = usage(host, sandbox)
    assert counted.requests == 5 and counted.output_tokens > 100 and counted.usd > 0.01


@pytest.mark.parametrize("name", CLIS)
def test_refused_key_ends_the_agent_soon_and_is_journaled(host: NodeHost, name: str) -> None:
    sandbox = boot(host, name, key="sk-of-nobody")
    begin = time.monotonic()
    ran, _, outcome = run(host, sandbox, name, "Say hello")
    assert ran.exit_code == 1 and outcome.error
    assert time.monotonic() - begin < 60
    (entry,) = host.journal(sandbox["id"], "llm_auth_failed")
    assert entry["data"]["status"] == 401


@pytest.mark.parametrize("name", CLIS)
def test_used_up_budget_ends_the_agent_soon(host: NodeHost, name: str) -> None:
    sandbox = boot(host, name, max_tokens=20_000)
    ran, events, outcome = run(host, sandbox, name, "Look around and write report.md")
    assert ran.exit_code == 1
    assert outcome.error is not None and "budget of this task is used up" in outcome.error
    assert any(event.type == EventType.TOOL_CALL_UPDATE for event in events), "what came before is kept"
    assert len(host.journal(sandbox["id"], "llm_budget_exceeded")) == 1


@pytest.mark.parametrize("name", CLIS)
def test_prompt_of_five_megabytes(host: NodeHost, name: str) -> None:
    sandbox = boot(host, name)
    prompt = "All of this is the task. " * 200_000
    ran, _, outcome = run(host, sandbox, name, prompt)
    assert ran.exit_code == 0, ran.stderr
    assert outcome.text is not None and outcome.text.startswith("Done.")
    assert host.exec(sandbox, "wc -c < ~/.hutch-task.md").stdout.strip() == str(len(prompt))


def test_agent_goes_on_when_the_node_is_killed_in_the_middle_of_an_answer(host: NodeHost) -> None:
    sandbox = boot(host, "claude-code")
    prompt = "[model run=echo one][model slow=0.05][model chunks=60][model say=" + "words and more words " * 20 + "]"
    launch = get("claude-code").launch(AgentContext(prompt, None, "/", "http://llm.hutch", PLACEHOLDER))
    process = "exe_" + secrets.token_hex(11)

    stdin = {"data": base64.b64encode(launch.stdin or b"").decode()}
    begin(host, sandbox, process, argv=launch.argv, env=launch.env, stdin=stdin)
    end = time.monotonic() + 60
    while len(host.journal(sandbox["id"], "llm_usage")) < 3:  # the second answer has begun
        assert time.monotonic() < end
        time.sleep(0.05)
    before = usage(host, sandbox)
    host.kill()
    host.start()
    ran = host.follow(sandbox, process, timeout=200)
    outcome = Outcome()
    for line in ran.stdout.encode().splitlines():
        get("claude-code").parse(line, outcome)
    assert ran.exit_code == 0, (ran.stdout[-2000:], ran.stderr)
    assert outcome.text is not None and outcome.text.startswith("words and more words")
    after = usage(host, sandbox)
    assert after.requests > before.requests and after.input_tokens > before.input_tokens


def test_sandbox_cannot_reach_the_gateway_of_another_by_its_placeholder(host: NodeHost) -> None:
    first = boot(host, "claude-code")
    grant = {"provider": "anthropic", "key": KEY, "placeholder": "another-placeholder"}
    second = host.boot(template="claude-code", llm=grant)
    ask = (
        "python3 - <<'E'\nimport urllib.request, urllib.error\n"
        "request = urllib.request.Request('http://llm.hutch/anthropic/v1/models', "
        f"headers={{'x-api-key': '{PLACEHOLDER}'}})\n"
        "try: print(urllib.request.urlopen(request).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\nE"
    )
    assert host.exec(first, ask).stdout.strip() == "200"
    assert host.exec(second, ask).stdout.strip() == "401"


def test_many_agents_at_once_are_counted_apart(host: NodeHost) -> None:
    sandboxes = [boot(host, "codex") for _ in range(4)]
    outcomes: dict[str, Outcome] = {}

    def work(sandbox: dict[str, Any]) -> None:
        outcomes[sandbox["id"]] = run(host, sandbox, "codex", "Look around and write report.md")[2]

    threads = [threading.Thread(target=work, args=(sandbox,)) for sandbox in sandboxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.error for outcome in outcomes.values()] == [None] * 4
    assert [usage(host, sandbox).requests for sandbox in sandboxes] == [5] * 4
