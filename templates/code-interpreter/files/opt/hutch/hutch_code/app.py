"""The calls that E2B's clients make on port 49999."""

from __future__ import annotations

import json
import os
from typing import Any

from hutch_code.contexts import REMOVED, Context
from hutch_code.kernels import KernelStopped
from hutch_code.languages import JAVASCRIPT, PYTHON, Languages, UnknownLanguage
from hutch_code.runs import Run
from hutch_code.surroundings import Sandbox
from hutch_guest.errors import GuestError, InvalidRequest, LimitReached, NotFound
from hutch_guest.http.messages import Request, Response, json_response
from hutch_guest.log import log_exception

_MOST_CONTEXTS = 64
_MAX_BODY = 64 << 20
_HOME = os.path.expanduser("~")
_LINES = "application/x-ndjson"
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "*", "Access-Control-Allow-Headers": "*"}


class App:
    """Answers requests."""

    def __init__(self) -> None:
        self._languages = Languages()
        self._sandbox = Sandbox()
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}
        """For requests that name no context, by language."""

    async def start(self) -> None:
        """Have Python ready; JavaScript starts when it is first used. Raises `KernelStopped`."""
        await self._default(PYTHON).start()
        self._default(JAVASCRIPT)

    async def __call__(self, request: Request) -> Response:
        """Errors are plain text: E2B's clients show it as it is."""
        try:
            response = await self._answer(request)
        except GuestError as error:
            response = _text(error.status, error.message)
        except UnknownLanguage as error:
            response = _text(400, str(error))
        except KernelStopped as error:
            response = _text(500, str(error))
        except Exception as error:
            log_exception(error)
            response = _text(500, f"internal error: {type(error).__name__}")
        response.headers.update(_CORS)
        return response

    async def _answer(self, request: Request) -> Response:
        match (request.method, *request.path.strip("/").split("/")):
            case ("OPTIONS", *_):
                return Response(204)
            case ("GET", "health"):
                return json_response("OK")
            case ("POST", "execute"):
                return await self._execute(await _body(request))
            case ("GET", "contexts"):
                return json_response([context.describe() for context in self._contexts.values()])
            case ("POST", "contexts"):
                return await self._create(await _body(request))
            case ("POST", "contexts", id, "restart"):
                await self._find(id).restart()
                return json_response({})
            case ("DELETE", "contexts", id):
                await self._remove(self._find(id))
                return json_response({})
        raise NotFound(f"no such call: {request.method} {request.path[:200]}")

    async def _execute(self, body: dict[str, Any]) -> Response:
        code, env, timeout = body.get("code"), body.get("env_vars") or {}, body.get("timeout")
        if not isinstance(code, str):
            raise InvalidRequest("code is not a text")
        if not isinstance(env, dict) or not all(_is_variable(name, value) for name, value in env.items()):
            raise InvalidRequest("env_vars is not an object of environment variables")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise InvalidRequest("timeout is not a positive number of seconds")
        id, language = body.get("context_id"), body.get("language")
        if id and language:
            raise InvalidRequest("only one of context_id and language may be given")
        context = self._find(id) if id and id != "default" else self._default(language)

        run = Run(context, self._sandbox, code, env, timeout)
        lines = run.lines()
        first = await anext(lines)
        if run.told:
            return Response(200, first, _LINES)
        return Response(200, lines, _LINES, first=first)

    async def _create(self, body: dict[str, Any]) -> Response:
        cwd = body.get("cwd") or _HOME
        if not isinstance(cwd, str) or not os.path.isdir(cwd):  # noqa: ASYNC240 - of the sandbox's own disk
            raise InvalidRequest(f"cwd: there is no directory {str(cwd)[:200]!r}")
        context = self._add(body.get("language"), cwd)
        try:
            await context.start()
        except BaseException:
            self._contexts.pop(context.id, None)
            raise
        return json_response(context.describe())

    async def _remove(self, context: Context) -> None:
        del self._contexts[context.id]
        if self._defaults.get(context.language) is context:
            del self._defaults[context.language]
        await context.kill(REMOVED)

    def _default(self, language: str | None) -> Context:
        name, _ = self._languages.find(language)
        if name not in self._defaults:
            self._defaults[name] = self._add(name, _HOME)
        return self._defaults[name]

    def _add(self, language: str | None, cwd: str) -> Context:
        if language is not None and not isinstance(language, str):
            raise InvalidRequest("language is not a text")
        name, make = self._languages.find(language)
        if len(self._contexts) >= _MOST_CONTEXTS:
            raise LimitReached(f"there are {_MOST_CONTEXTS} contexts already: remove one")
        context = Context(name, cwd, make)
        self._contexts[context.id] = context
        return context

    def _find(self, id: object) -> Context:
        context = self._contexts.get(id) if isinstance(id, str) else None
        if context is None:
            raise NotFound(f"Context {str(id)[:64]} not found")
        return context


async def _body(request: Request) -> dict[str, Any]:
    raw = await request.body.read_all(_MAX_BODY)
    try:
        found = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidRequest("the body is not a JSON object")
    return found


def _is_variable(name: str, value: object) -> bool:
    return bool(name) and "=" not in name and "\0" not in name and isinstance(value, str) and "\0" not in value


def _text(status: int, message: str) -> Response:
    return Response(status, message.encode(errors="replace"), "text/plain; charset=utf-8")
