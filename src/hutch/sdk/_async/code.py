"""Code in a sandbox's kernels, and the contexts that it runs in."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from hutch.errors import from_problem
from hutch.model import CodeContext, CodeFrame, CodeRequest, CodeResult, CodeValue, CreateCodeContext
from hutch.sdk._async.following import RETRY, as_error, lines_of
from hutch.sdk._async.transport import SILENCE, STATE_TIMEOUT, AsyncTransport, at
from hutch.sdk.frames import CodeCollector, OnText
from hutch.sdk.wire import parse, parse_line, refuse, unexpected

OnValue = Callable[[CodeValue], None]


class AsyncContexts:
    """`sandbox.contexts`: kernels with variables of their own, in which code can be run."""

    def __init__(self, transport: AsyncTransport, sandbox_id: str) -> None:
        self._transport = transport
        self._base = at("sandboxes", sandbox_id, "code")

    async def run(
        self,
        code: str,
        *,
        language: str | None = None,
        context: str | CodeContext | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        on_result: OnValue | None = None,
    ) -> CodeResult:
        """As `Sandbox.run_code`."""
        collector = CodeCollector(on_stdout, on_stderr, on_result)
        try:
            request = CodeRequest(
                code=code, language=language, context=_id(context), env=dict(env or {}), timeout=timeout, stream=True
            )
        except ValidationError as error:
            refuse(error)
        body = request.model_dump(mode="json", exclude_defaults=True)
        try:
            async with self._transport.stream("POST", self._base, body=body, timeout=SILENCE) as response:
                async for line in lines_of(response.aiter_text()):
                    frame = parse_line(CodeFrame, line) if line else CodeFrame(type="keepalive")
                    if frame.type == "problem":
                        raise from_problem(frame.problem or {})
                    if frame.type == "end":
                        return collector.result()
                    collector.add(frame)
        except RETRY as error:
            raise as_error(error) from error
        raise unexpected("the server's answer ended before the code did")

    async def create(self, language: str | None = None, *, cwd: str | None = None) -> CodeContext:
        """Another context, with a kernel of this language (Python), in this directory (the user's home)."""
        body = CreateCodeContext(language=language, cwd=cwd).model_dump(exclude_none=True)
        return parse(CodeContext, await self._transport.json("POST", self._path(), body=body, timeout=STATE_TIMEOUT))

    async def list(self) -> builtins.list[CodeContext]:
        """All of them; among them those that code without a context runs in, one a language."""
        answer = await self._transport.json("GET", self._path())
        return [parse(CodeContext, each) for each in answer["contexts"]]

    async def restart(self, context: str | CodeContext) -> None:
        """A fresh kernel for it; code that runs in it ends with an error."""
        await self._transport.request("POST", self._path(_id(context) or "", "restart"), timeout=STATE_TIMEOUT)

    async def remove(self, context: str | CodeContext) -> None:
        """End its kernel; code that runs in it ends with an error."""
        await self._transport.request("DELETE", self._path(_id(context) or ""))

    def _path(self, *parts: str) -> str:
        return "/".join([self._base, "contexts", *parts])


def _id(context: str | CodeContext | None) -> str | None:
    return context.id if isinstance(context, CodeContext) else context
