"""What programs that lived through a freeze see when it is over. What docs/freeze.md says of it is tested here."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from tests.inside import program
from tests.node_host import NodeHost
from tests.world import web

pytestmark = pytest.mark.root

NODE_DRAWS = """
const crypto = require("crypto"), fs = require("fs");
const draw = () => console.log(JSON.stringify({bytes: crypto.randomBytes(16).toString("hex"), math: Math.random()}));
draw();
const first = fs.readFileSync("/run/hutch/generation", "utf8");
const timer = setInterval(() => {
  if (fs.readFileSync("/run/hutch/generation", "utf8") !== first) { clearInterval(timer); draw(); }
}, 50);
"""


def put(node: NodeHost, sandbox: dict[str, Any], path: str, data: bytes) -> None:
    said = node.exec(sandbox, f"echo {base64.b64encode(data).decode()} | base64 -d > {path}")
    assert said.exit_code == 0, said.stderr


def lines(node: NodeHost, sandbox: dict[str, Any], process: str, wanted: int, seconds: float = 20) -> list[str]:
    """What it has printed, once there are so many lines."""
    end = time.monotonic() + seconds
    command = f"/hutch/processes/{process}/output?from=0&follow=0"
    while True:
        connection = node.guest(sandbox)
        connection.request("GET", command, headers={"X-Access-Token": sandbox["guest_token"]})
        response = connection.getresponse()
        said = b""
        while header := response.read(13):
            payload = response.read(int.from_bytes(header[9:13], "big"))
            said += payload if header[0] in (1, 2) else b""
        connection.close()
        found = said.decode().splitlines()
        if len(found) >= wanted:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


def test_forks_draw_other_numbers_from_the_kernel_and_the_same_from_what_is_in_memory(shared_node: NodeHost) -> None:
    node = shared_node
    sandbox = node.boot()
    put(node, sandbox, "/tmp/draws.py", program("draws"))
    put(node, sandbox, "/tmp/draws.js", NODE_DRAWS.encode())
    python = node.start_process(sandbox, "exec python3 /tmp/draws.py")
    javascript = node.start_process(sandbox, "exec node /tmp/draws.js")
    (ready,) = (json.loads(line) for line in lines(node, sandbox, python, 1))
    lines(node, sandbox, javascript, 1)
    taken = node.snapshot(sandbox)
    boxes = [node.boot(from_snapshot=taken["id"]) for _ in range(2)]
    node.pause(sandbox)
    boxes.append(node.resume(sandbox))
    drawn = []
    for box in boxes:
        _, thawed, reseeded = (json.loads(line) for line in lines(node, box, python, 3))
        drawn.append(thawed | {f"reseeded {name}": value for name, value in reseeded.items()})
        drawn[-1] |= json.loads(lines(node, box, javascript, 2)[1])
        drawn[-1]["new process"] = node.exec(box, "openssl rand -hex 16; node -p 'crypto.randomUUID()'").stdout
        assert abs(thawed["wall"] - time.time()) < 20 and 0 < thawed["slept"] < 60
    values = {name: {str(each[name]) for each in drawn} for name in drawn[0]}
    kernel = ("urandom", "secrets", "uuid4", "new process", "reseeded random", "reseeded openssl", "generation")
    memory = ("random", "openssl", "bytes", "math")
    assert [len(values[name]) for name in kernel] == [3] * len(kernel)
    assert [len(values[name]) for name in memory] == [1] * len(memory), "if this is better now: tell docs/freeze.md"
    assert ready["generation"] not in values["generation"]


def test_connections_that_died_with_the_freeze_are_errors_and_no_silence(shared_node: NodeHost) -> None:
    node = shared_node
    sandbox = node.boot(network={"mode": "allow_all"})
    put(node, sandbox, "/tmp/connections.py", program("connections"))
    with web() as outside:
        argv = f"exec python3 /tmp/connections.py {outside.address} {outside.port}"
        process = node.start_process(sandbox, argv)
        begun = lines(node, sandbox, process, 4)
        assert sorted(begun) == ["curl begun", "idle begun", "node begun", "recv begun"]
        node.pause(sandbox)
        time.sleep(1.5)
        sandbox = node.resume(sandbox)
        resumed = time.monotonic()
        ended = lines(node, sandbox, process, 8)[4:]
        assert time.monotonic() - resumed < 10
    assert sorted(ended) == [
        "curl ended 56",
        "idle ConnectionAbortedError True quick",
        "node error ECONNABORTED",
        "recv ConnectionAbortedError",
    ]
