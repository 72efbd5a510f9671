"""What is on the wire, made into models and errors; no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from hutch.errors import HutchError, InternalError, InvalidRequest, from_problem
from hutch.model import Event

M = TypeVar("M", bound=BaseModel)
JSON_TYPES = ("application/problem+json", "application/json")


def parse(model: type[M], value: object) -> M:
    """A model from an answer. Fields of a newer server that this version does not know are passed over."""
    try:
        return model.model_validate(value, extra="ignore")
    except ValidationError as error:
        raise unexpected(f"the server's answer is no {model.__name__}: {_first(error)}") from error


def parse_line(model: type[M], line: str) -> M:
    """The same from one line of JSON."""
    try:
        return model.model_validate_json(line, extra="ignore")
    except ValidationError as error:
        raise unexpected(f"the server's answer is no {model.__name__}: {_first(error)}") from error


def unexpected(what: str) -> InternalError:
    """Something that no Hutch server says."""
    return InternalError(what, hint="Is HUTCH_URL the address of a Hutch server, of this version?")


def problem(status: int, content_type: str, body: bytes) -> HutchError:
    """The error that an answer stands for; also for answers that no Hutch server gave (a proxy's, say)."""
    if content_type.partition(";")[0].strip() in JSON_TYPES:
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if isinstance(value, dict) and "code" in value:
            return from_problem(value)
    text = " ".join(body[:200].decode(errors="replace").split())
    return unexpected(f"the server answered {status}: {text or 'nothing more'}")


def refuse(error: ValidationError) -> NoReturn:
    """A request that is wrong before it is sent, as the server would have said it."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    raise InvalidRequest(f"{field}: {first['msg']}" if field else first["msg"], field=field) from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


class SseReader:
    """Server-sent events from lines; gives what `data:` says of each finished event."""

    def __init__(self) -> None:
        self._data: list[str] = []
        self._event = ""

    def feed(self, line: str) -> Iterator[str]:
        """Take one line (without its newline); give the data of the event that it ends, if it ends one. Raises the
        error that an event `problem` carries."""
        if line == "":
            data, event = "\n".join(self._data), self._event
            self._data, self._event = [], ""
            if event == "problem":
                raise from_problem(json.loads(data))
            if data:
                yield data
        elif line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            self._event = line[6:].strip()


def parse_event(data: str) -> Event | None:
    """A task's event; None for one of a type that this version does not know."""
    try:
        return Event.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        if all(issue["loc"] == ("type",) for issue in error.errors(include_url=False, include_input=False)):
            return None
        raise unexpected(f"the server's answer is no Event: {_first(error)}") from error


def event_offset(data: str) -> int:
    """The offset of an event that could not be read otherwise."""
    value: Any = json.loads(data)
    return int(value["offset"])
