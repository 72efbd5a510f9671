"""The node and a sandbox's model calls: the grant, the count and the key, over a kill of the daemon."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.node_host import NodeHost

pytestmark = pytest.mark.root

KEY, PLACEHOLDER = "sk-real-secret-key", "hutch-placeholder"
CALL = (
    "curl -sS -o /tmp/answer -w '%{http_code}' http://llm.hutch/anthropic/v1/messages "
    "-H 'content-type: application/json' "
    f"-H 'x-api-key: {PLACEHOLDER}' -H 'anthropic-version: 2023-06-01' "
    '-d \'{"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}\''
)


class Provider(BaseHTTPRequestHandler):
    """Answers every message with 10 tokens in and 5 out, and remembers the keys it saw."""

    keys: list[str | None] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.keys.append(self.headers["x-api-key"])
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": "hello"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }
        body = json.dumps(message).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def llm_node(standard_template: str) -> Iterator[NodeHost]:
    """A node whose gateway sends to the provider above."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    host = NodeHost(anthropic_base_url=f"http://127.0.0.1:{server.server_address[1]}")
    try:
        host.start()
        yield host
    finally:
        host.close()
        server.shutdown()
        thread.join()
        server.server_close()


def grant(**changes: object) -> dict[str, object]:
    return {"provider": "anthropic", "key": KEY, "placeholder": PLACEHOLDER, **changes}


def test_grant_count_and_budget_survive_a_kill_and_the_key_is_nowhere_on_disk(llm_node: NodeHost) -> None:
    node = llm_node
    sandbox = node.boot(llm=grant(max_tokens=40))
    assert node.exec(sandbox, CALL).stdout == "200"
    assert Provider.keys[-1] == KEY
    used = node.sandbox(sandbox["id"])
    assert used is not None and (used["llm"]["requests"], used["llm"]["input_tokens"]) == (1, 10)
    (entry,) = node.journal(sandbox["id"], "llm_usage")[-1:]
    assert entry["data"]["usage"]["output_tokens"] == 5
    node.kill()
    node.start()
    after = node.sandbox(sandbox["id"])
    assert after is not None and after["llm"] == used["llm"]
    assert node.exec(after, CALL).stdout == "200"
    assert node.exec(after, CALL).stdout == "200"  # 45 of 40: a call under way is not cut, the next is refused
    assert node.exec(after, CALL).stdout == "403"
    assert node.journal(sandbox["id"], "llm_budget_exceeded")[0]["data"]["part"] == "llm_tokens"
    # A larger budget, or none at all, is in force at once.
    path = f"/sandboxes/{sandbox['id']}"
    assert node.call("PUT", path + "/llm", grant(max_tokens=1000)).status == 200
    assert node.exec(after, CALL).stdout == "200"
    assert node.call("PUT", path + "/llm", b"null").status == 200
    assert node.exec(after, CALL).stdout == "403"
    for file in node.node_dir.rglob("*"):
        assert not (file.is_file() and KEY.encode() in file.read_bytes()), file
    assert KEY not in node.log()
    found = node.exec(after, "env; cat /proc/[0-9]*/environ /etc/hosts 2>/dev/null", user="root").stdout
    assert KEY not in found
    final = node.call("DELETE", path).json()
    assert (final["llm"]["requests"], final["llm"]["input_tokens"]) == (4, 40)


def test_a_sandbox_without_a_grant_may_call_nobody(llm_node: NodeHost) -> None:
    sandbox = llm_node.boot()
    assert llm_node.exec(sandbox, CALL).stdout == "403"
    assert llm_node.exec(sandbox, "curl -sS -m 5 http://192.0.2.1/ || echo refused").stdout == "refused\n"


def test_a_pause_keeps_the_grant_and_the_count_and_a_fork_has_none_but_its_own(llm_node: NodeHost) -> None:
    node = llm_node
    sandbox = node.boot(llm=grant(max_tokens=40))
    assert node.exec(sandbox, CALL).stdout == "200"
    used = node.sandbox(sandbox["id"])
    paused = node.pause(sandbox)
    assert used is not None and paused["llm"] == used["llm"]
    node.kill()
    node.start()
    resumed = node.resume(sandbox)
    assert resumed["llm"] == used["llm"]
    assert node.exec(resumed, CALL).stdout == "200"
    taken = node.snapshot(resumed)["id"]
    poor, rich = node.boot(from_snapshot=taken), node.boot(from_snapshot=taken, llm=grant())
    assert node.exec(poor, CALL).stdout == "403"
    assert node.exec(rich, CALL).stdout == "200"
    counted = node.sandbox(rich["id"])
    assert counted is not None and counted["llm"]["requests"] == 1
    assert node.exec(resumed, CALL).stdout == "200"
    assert node.exec(resumed, CALL).stdout == "403"
    assert KEY.encode() not in b"".join(
        path.read_bytes() for path in (node.node_dir / "sandboxes").glob("*/record.json")
    )
