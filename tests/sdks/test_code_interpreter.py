"""E2B's code interpreter SDKs, unmodified, against a real Hutch. What is checked stands in `code/`; here it is run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch import Hutch, Sandbox
from hutch.errors import InvalidRequest, NotFound, PortClosed
from tests.machine import Machine
from tests.sdks.environments import node_environment
from tests.sdks.running import run, run_checks

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
PYTHON = ("e2b==2.63.0", "e2b-code-interpreter==2.11.5")
TEMPLATES = HERE.parent.parent / "templates"
INTERPRETER = TEMPLATES / "code-interpreter/files/opt/hutch"
REQUIREMENTS = TEMPLATES / "python-data/files/opt/hutch/python-data/requirements.txt"
KERNEL = ("ipykernel==", "ipython==", "jupyter-client==")
NODE = ("e2b@2.51.0", "@e2b/code-interpreter@2.8.0")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A Hutch whose code interpreter is thawed from its snapshot."""
    subprocess.run([sys.executable, "-m", "hutch.images", "build", "code-interpreter"], check=True, timeout=900)
    machine = Machine(slots_ahead="4", template_snapshots="true")
    try:
        asyncio.run(machine.start())
        asyncio.run(machine.build("code-interpreter"))
        yield machine
    finally:
        asyncio.run(machine.stop())


def test_python(environment: dict[str, str]) -> None:
    run_checks(PYTHON, environment, HERE / "code")


def test_the_python_kernel_by_itself() -> None:
    """Without a sandbox, so that hundreds of rounds take no time: in an environment with what the template pins."""
    pinned = [line.split()[0] for line in REQUIREMENTS.read_text().splitlines() if line.startswith(KERNEL)]
    assert len(pinned) == len(KERNEL)
    run_checks(pinned, dict(os.environ) | {"PYTHONPATH": str(INTERPRETER)}, HERE / "kernel")


def test_node(environment: dict[str, str]) -> None:
    node, packages = node_environment(*NODE)
    run([node, "--test", "code.mjs"], environment | {"PACKAGES": str(packages)}, HERE / "js")


def test_our_own_sdk(machine: Machine) -> None:
    with (
        Hutch(url=machine.url, api_key=machine.key) as client,
        client.sandboxes.create("code-interpreter", env={"GREETING": "hello"}) as sandbox,
    ):
        heard: list[str] = []
        plot = "import os, matplotlib.pyplot as plt\nprint(os.environ['GREETING']); plt.plot([1, 2]); plt.show()"
        code = f"{plot}\n{{'a': None}}"
        result = sandbox.run_code(code, on_stdout=heard.append, on_result=lambda value: heard.append(str(value.main)))
        shown, value = result.results
        assert heard == ["hello\n", "False", "True"] and result.stdout == "hello\n" and result.error is None
        assert shown.png and shown.chart and shown.chart["type"] == "line"
        assert value.main and value.json_ == {"a": None} and result.text == "{'a': None}" and result.count == 1
        assert sandbox.run_code("os.environ['MORE']", env={"MORE": "1"}).text == "1"
        failed = sandbox.run_code("1 / 0").error
        assert failed is not None and failed.name == "ZeroDivisionError" and "1 / 0" in failed.traceback
        late = sandbox.run_code("import time; kept = 1; time.sleep(60)", timeout=1)
        assert late.error is not None and late.error.name == "ExecutionTimeout"
        assert sandbox.run_code("kept").text == "1"
        contexts_of(sandbox)
        plain = client.transport.json("POST", f"/v1/sandboxes/{sandbox.id}/code", body={"code": "print(1)\n2"})
        assert plain["stdout"] == "1\n" and [value["text"] for value in plain["results"]] == ["2"]
        sandbox.pause()
        assert sandbox.run_code("kept").text == "1"


def contexts_of(sandbox: Sandbox) -> None:
    context = sandbox.contexts.create(cwd="/tmp")
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
    assert context in sandbox.contexts.list()
    sandbox.contexts.restart(context)
    assert sandbox.run_code("'os' in globals()", context=context.id).text == "False"
    sandbox.contexts.remove(context)
    with pytest.raises(NotFound):
        sandbox.run_code("1", context=context)
    with pytest.raises(InvalidRequest, match="cobol"):
        sandbox.run_code("1", language="cobol")


def test_a_sandbox_without_a_code_interpreter_says_so(machine: Machine, standard_template: str) -> None:
    with (
        Hutch(url=machine.url, api_key=machine.key) as client,
        client.sandboxes.create(standard_template) as sandbox,
        pytest.raises(PortClosed, match="no code interpreter"),
    ):
        sandbox.run_code("1")
