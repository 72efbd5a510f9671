"""What code gives: output, values in all their forms, errors."""

from __future__ import annotations

import base64
from typing import Any

from e2b_code_interpreter import Execution, Result, Sandbox
from e2b_code_interpreter.charts import ChartType, ScaleType

PLOT = "import matplotlib.pyplot as plt\n"


def one(execution: Execution) -> Result:
    assert execution.error is None, execution.error
    (result,) = execution.results
    return result


def chart(sandbox: Sandbox, code: str) -> Any:
    execution = sandbox.run_code(f"{PLOT}{code}\nplt.show()")
    result = one(execution)
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG") and not result.is_main_result
    assert "chart" in result.formats()
    return result.chart


def test_values_and_state(sandbox: Sandbox) -> None:
    first = sandbox.run_code("x = 20")
    assert first.results == [] and first.text is None
    second = sandbox.run_code("x + 1")
    assert second.text == "21" and second.results[0].is_main_result
    assert (second.execution_count or 0) == (first.execution_count or 0) + 1
    assert sandbox.run_code("'hi'").text == "hi"


def test_output_is_streamed_as_it_comes(sandbox: Sandbox) -> None:
    heard: list[tuple[bool, str]] = []
    execution = sandbox.run_code(
        "import sys, time\nprint('one', flush=True); time.sleep(0.5)\nprint('two', file=sys.stderr)\n3",
        on_stdout=lambda message: heard.append((message.error, message.line)),
        on_stderr=lambda message: heard.append((message.error, message.line)),
        on_result=lambda result: heard.append((False, str(result.text))),
    )
    assert heard == [(False, "one\n"), (True, "two\n"), (False, "3")]
    assert execution.logs.stdout == ["one\n"] and execution.logs.stderr == ["two\n"]
    assert sandbox.run_code("!echo from a shell").logs.stdout[0].strip() == "from a shell"
    assert "".join(sandbox.run_code("import os; _ = os.system('echo below')").logs.stdout) == "below\n"


def test_part_of_a_line_is_not_kept_back(sandbox: Sandbox) -> None:
    heard: list[str] = []
    code = "import time\nfor step in range(2): print(step, end=''); time.sleep(1)"
    sandbox.run_code(code, on_stdout=lambda message: heard.append(message.line))
    assert heard == ["0", "1"]


def test_much_output_is_whole(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("for i in range(20000): print(i)")
    assert "".join(execution.logs.stdout) == "".join(f"{i}\n" for i in range(20000))


def test_awaiting(sandbox: Sandbox) -> None:
    later = "async def later():\n    await asyncio.sleep(0.3); return 1"
    assert sandbox.run_code(f"import asyncio\n{later}\ntask = asyncio.create_task(later())").error is None
    assert sandbox.run_code("await task").text == "1"


def test_processes_that_the_code_forks(sandbox: Sandbox) -> None:
    """They come to the end of the code, too, and are no kernels."""
    forked = "import os\nprint('once')\nchild = os.fork()"
    assert sandbox.run_code(forked).logs.stdout == ["once\n"]
    assert sandbox.run_code("os.waitpid(child, 0)[1]").text == "0"
    pool = "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))"
    assert sandbox.run_code(pool).logs.stdout == ["[1, 2]\n"]


def test_errors(sandbox: Sandbox) -> None:
    said: list[str] = []
    execution = sandbox.run_code("def f():\n    return 1 / 0\nf()", on_error=lambda error: said.append(error.name))
    error = execution.error
    assert error is not None and said == [error.name] == ["ZeroDivisionError"]
    assert error.value == "division by zero" and "return 1 / 0" in error.traceback
    assert "\x1b" not in error.traceback
    assert (sandbox.run_code("x = (").error or error).name == "SyntaxError"
    assert (sandbox.run_code("input()").error or error).name == "StdinNotImplementedError"
    assert sandbox.run_code("1").text == "1"


def test_forms_of_what_is_shown(sandbox: Sandbox) -> None:
    shown = [
        *("HTML('<b>1</b>')", "Markdown('# 1')", "Latex('$1$')", "Javascript('1')", "JSON({'a': 1})"),
        "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')",
        "{'application/pdf': 'JVBERi0=', 'application/x-ours': 'more'}, raw=True",
    ]
    calls = "\n".join(f"display({each})" for each in shown)
    execution = sandbox.run_code(f"from IPython.display import *\n{calls}")
    html, markdown, latex, javascript, json, svg, pdf = execution.results
    assert (html.html, markdown.markdown, latex.latex) == ("<b>1</b>", "# 1", "$1$")
    assert (javascript.javascript, json.json, pdf.pdf) == ("1", {"a": 1}, "JVBERi0=")
    assert (svg.svg or "").startswith("<svg") and pdf.extra == {"application/x-ours": "more"}
    assert not any(result.is_main_result for result in execution.results)
    plain = one(sandbox.run_code("{'a': [1, 2]}"))
    assert plain.json == {"a": [1, 2]} and plain.text == "{'a': [1, 2]}"


def test_pictures(sandbox: Sandbox) -> None:
    code = "from PIL import Image\nImage.new('RGB', (4, 4)).save('/tmp/a.png')"
    assert one(sandbox.run_code(code)).png
    jpeg = (
        "from IPython.display import Image as I\nimport io\nb = io.BytesIO()\nImage.new('RGB', (4, 4)).save(b, 'jpeg')"
    )
    assert one(sandbox.run_code(f"{jpeg}\nI(b.getvalue())")).jpeg


def test_tables(sandbox: Sandbox) -> None:
    columns = "{'a': [1, None], 'when': pd.to_datetime(['2020-01-02', None]), 3: ['x', 'y']}"
    result = one(sandbox.run_code(f"import pandas as pd\npd.DataFrame({columns})"))
    assert result.data == {"a": [1.0, None], "when": ["2020-01-02T00:00:00", None], "3": ["x", "y"]}
    assert "<table" in (result.html or "") and "NaT" in (result.text or "")


def test_charts(sandbox: Sandbox) -> None:
    line = chart(sandbox, "plt.plot([1, 2], [3, 4], label='l'); plt.title('T'); plt.xlabel('time (s)')")
    assert (line.type, line.title, line.x_label, line.x_unit) == (ChartType.LINE, "T", "time (s)", "s")
    assert line.x_scale == ScaleType.LINEAR and line.x_ticks and line.y_tick_labels
    assert (line.elements[0].label, line.elements[0].points) == ("l", [(1, 3), (2, 4)])
    scatter = chart(sandbox, "plt.scatter([1, 2], [3, 4], label='s')")
    assert scatter.type == ChartType.SCATTER and scatter.elements[0].points == [(1, 3), (2, 4)]
    bar = chart(sandbox, "plt.bar(['a', 'b'], [1, 2], label='g')")
    assert bar.type == ChartType.BAR
    assert [(each.label, each.group, each.value) for each in bar.elements] == [("a", "g", 1), ("b", "g", 2)]
    pie = chart(sandbox, "plt.pie([1, 3], labels=['a', 'b'])")
    assert pie.type == ChartType.PIE and [(each.label, each.angle) for each in pie.elements] == [("a", 90), ("b", 270)]
    box = chart(sandbox, "plt.boxplot([[1, 2, 3, 4, 5], [1, 3, 5, 7, 9, 30]], patch_artist=True)")
    assert box.type == ChartType.BOX_AND_WHISKER and box.elements[1].outliers == [30]
    assert (box.elements[0].min, box.elements[0].median, box.elements[0].max) == (1, 3, 5)
    both = chart(sandbox, "f, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); b.bar(['q'], [3])")
    assert both.type == ChartType.SUPERCHART
    assert [each.type for each in both.elements] == [ChartType.LINE, ChartType.BAR]
