"""Languages beside Python."""

from __future__ import annotations

import base64

import pytest
from e2b import TimeoutException
from e2b_code_interpreter import Sandbox


def test_javascript(sandbox: Sandbox) -> None:
    assert "javascript" in [context.language for context in sandbox.list_code_contexts()]
    sandbox.run_code("const x = 20", language="javascript")
    again = sandbox.run_code("const x = 21; console.log('out'); console.error('err'); x", language="js")
    assert (again.text, again.logs.stdout, again.logs.stderr) == ("21", ["out\n"], ["err\n"])
    imports = (
        "import { sep } from 'node:path'\nimport os, * as all from 'node:os'\nconst fs = await import('node:fs');\n"
    )
    used = sandbox.run_code(imports + "[sep, typeof os.cpus, typeof all.cpus, fs.existsSync('/')]", language="js")
    assert used.text == "[ '/', 'function', 'function', true ]"
    assert sandbox.run_code("Promise.resolve(require('os').EOL)", language="js").text == "\n"
    error = sandbox.run_code("function f() { null.x }\nf()", language="js").error
    assert error is not None and error.name == "TypeError" and "at f (cell-" in error.traceback
    shown = sandbox.run_code("$$.html('<b>1</b>'); display({ a: 1 }); undefined", language="js").results
    assert [(each.html, each.text) for each in shown] == [("<b>1</b>", None), (None, "{ a: 1 }")]
    told = "[process.env.GREETING, process.env.MORE].join(' ')"
    assert sandbox.run_code(told, language="js", envs={"MORE": "1"}).text == "hello 1"
    assert sandbox.run_code(told, language="js").text == "hello "


def test_endless_javascript_is_interrupted(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(language="javascript", cwd="/tmp")
    sandbox.run_code("globalThis.kept = process.cwd()", context=context)
    for endless in ("while (true) {}", "await new Promise((done) => setTimeout(done, 100_000))"):
        with pytest.raises(TimeoutException):
            sandbox.run_code(endless, context=context, timeout=2)
        assert sandbox.run_code("kept", context=context).text == "/tmp"
    died = sandbox.run_code("process.exit(3)", context=context).error
    assert died is not None and died.name == "KernelDied" and "exit code 3" in died.value
    sandbox.remove_code_context(context)


def test_typescript(sandbox: Sandbox) -> None:
    code = "interface Point { x: number }\nenum Axis { X, Y }\nconst point: Point = { x: Axis.Y }\npoint"
    assert sandbox.run_code(code, language="typescript").text == "{ x: 1 }"


def test_bash(sandbox: Sandbox) -> None:
    sandbox.run_code("x=5; f() { echo in $1; }; cd /tmp", language="bash")
    execution = sandbox.run_code("f $x; pwd; echo $GREETING $MORE; echo err >&2", language="bash", envs={"MORE": "a b"})
    assert "".join(execution.logs.stdout) == "in 5\n/tmp\nhello a b\n" and execution.logs.stderr == ["err\n"]
    assert sandbox.run_code("echo $MORE", language="bash").logs.stdout == ["\n"]
    failed = sandbox.run_code("ls /nowhere", language="bash")
    assert failed.error is not None and (failed.error.name, failed.error.value) == ("ExitStatus", "2")
    with pytest.raises(TimeoutException):
        sandbox.run_code("sleep 100; echo not reached", language="bash", timeout=2)
    assert sandbox.run_code("echo $x", language="bash").logs.stdout == ["5\n"]


def test_r(sandbox: Sandbox) -> None:
    told = "x <- 20; Sys.getenv(c('GREETING', 'MORE'), names = FALSE)"
    first = sandbox.run_code(f"{told}; cat('out\\n'); message('err')", language="r", envs={"MORE": "a 'b'"})
    assert [each.text for each in first.results] == ['[1] "hello" "a \'b\'"']
    assert first.logs.stdout == ["out\n"] and "".join(first.logs.stderr).strip() == "err"
    table, again = sandbox.run_code("data.frame(n = c(1, x)); Sys.getenv('MORE')", language="r").results
    assert "<table" in (table.html or "") and "20" in (table.text or "") and again.text == '[1] ""'
    (plot,) = sandbox.run_code("plot(1:3)", language="r").results
    assert base64.b64decode(plot.png or "").startswith(b"\x89PNG") and "<svg" in (plot.svg or "")
    failed = sandbox.run_code("stop('bad')", language="r").error
    assert failed is not None and "bad" in failed.value and "stop(" in failed.traceback
    with pytest.raises(TimeoutException):
        sandbox.run_code("x <- 21; while (TRUE) {}", language="r", timeout=2)
    assert [each.text for each in sandbox.run_code("x", language="r").results] == ["[1] 21"]
    context = sandbox.create_code_context(language="r", cwd="/tmp")
    assert [each.text for each in sandbox.run_code("getwd()", context=context).results] == ['[1] "/tmp"']
    sandbox.remove_code_context(context)
