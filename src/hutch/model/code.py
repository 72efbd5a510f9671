"""Code run in a sandbox, in a kernel that keeps its state."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hutch.model.common import Model

CODE_PORT = 49999
"""Where the code interpreter of a template listens."""


class CodeRequest(Model):
    """`POST /v1/sandboxes/{id}/code`."""

    code: str
    language: str | None = Field(None, max_length=64, description="Default: Python. Not together with `context`.")
    context: str | None = Field(None, max_length=64, description="Id of a context. Default: the language's own.")
    env: dict[str, str] = Field({}, max_length=256, description="For this code alone, over the sandbox's.")
    timeout: float | None = Field(None, gt=0, description="Seconds; then the code is interrupted.")
    stream: bool = Field(False, description="Answer with newline-delimited JSON frames as they come.")


class CodeValue(Model):
    """A value, or something that the code has shown, in the forms that there are of it. Pictures and PDFs: base64."""

    main: bool = Field(False, description="The value of the last line, and not something shown before.")
    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    svg: str | None = None
    png: str | None = None
    jpeg: str | None = None
    pdf: str | None = None
    latex: str | None = None
    json_: Any = Field(None, alias="json", serialization_alias="json")
    javascript: str | None = None
    data: dict[str, Any] | None = Field(None, description="A table's columns by name.")
    chart: dict[str, Any] | None = Field(None, description="What a chart shows: `type`, `title`, `elements`, axes.")
    extra: dict[str, Any] | None = Field(None, description="Other forms, by MIME type.")


class CodeError(Model):
    """What ended the code early."""

    name: str = Field(
        description="The exception's class; of ours: `ExecutionTimeout`, `KernelDied`, `ContextRestarting`, "
        "`ContextRemoved`."
    )
    value: str = ""
    traceback: str = ""


class CodeResult(Model):
    """What came of code that was waited for."""

    results: list[CodeValue] = []
    stdout: str = ""
    stderr: str = ""
    error: CodeError | None = None
    count: int | None = Field(None, description="How often the context has run code, this time included.")
    truncated: bool = Field(False, description="There was more than an answer holds: use `stream`.")

    @property
    def text(self) -> str | None:
        """The value of the last line, as text."""
        return next((result.text for result in self.results if result.main), None)


class CodeFrame(Model):
    """One line of a streamed run. `end` is the last, or `problem`."""

    type: Literal["count", "stdout", "stderr", "result", "error", "gap", "keepalive", "end", "problem"]
    count: int | None = None
    text: str | None = Field(None, description="Of `stdout` and `stderr`; of `gap`, what was left out.")
    result: CodeValue | None = None
    error: CodeError | None = None
    problem: dict[str, object] | None = Field(None, description="As in error answers: the way to the code was lost.")


class CreateCodeContext(Model):
    """`POST /v1/sandboxes/{id}/code/contexts`."""

    language: str | None = Field(None, max_length=64, description="Default: Python.")
    cwd: str | None = Field(None, max_length=4096, description="Default: the user's home.")


class CodeContext(Model):
    """A kernel's state that code can be run in."""

    id: Annotated[str, Field(max_length=64)]
    language: str
    cwd: str
