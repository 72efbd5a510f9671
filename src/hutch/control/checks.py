"""What a request to create a sandbox may say, beyond the form of its fields."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from hutch import agents
from hutch.agents import Agent
from hutch.control.outputs import check_glob
from hutch.errors import InvalidPath, InvalidRequest, MissingLlmKey, PayloadTooLarge, TemplateNotBuilt, UnknownTemplate
from hutch.model import BUILT_IN, CreateSandbox, LlmApi, SnapshotRecord, TemplateInfo, UploadInput
from hutch.settings import Settings

MAX_PROMPT = 8 << 20
_MAX_ENV = 1 << 20
_MAX_LABEL_KEY, _MAX_LABEL_VALUE = 256, 1024
_MAX_INPUT_PATH = 4096
_UNSET: tuple[object, ...] = (None, "", [], "off")


def check(request: CreateSandbox, templates: Sequence[TemplateInfo], settings: Settings) -> TemplateInfo:
    """The template to use. Raises what is wrong, naming the field."""
    template = _template(request.template, templates)
    if template.image is None and request.from_snapshot is None:  # a snapshot has its image
        raise TemplateNotBuilt(
            f"the template {template.name} is not built",
            hint=f"`hutch template build {template.name}` builds it.",
            field="template",
        )
    _texts(request)
    if request.lifetime is not None and request.lifetime > settings.max_lifetime:
        raise InvalidRequest(f"`lifetime` is at most {settings.max_lifetime:g} s", field="lifetime")
    if request.agent is None:
        _plain(request)
    else:
        _task(request, template, agents.get(request.agent))
        _provider(request, agents.get(request.agent), settings)
    return template


def forked(request: CreateSandbox, source: SnapshotRecord) -> CreateSandbox:
    """The request with what its snapshot says. Raises `InvalidRequest` for what a fork cannot have otherwise."""
    if source.template is None:
        raise InvalidRequest("this snapshot does not say of what template it is", field="from")
    if "template" in request.model_fields_set and request.template != source.template:
        raise InvalidRequest(f"`template`: the snapshot is of {source.template}", field="template")
    wanted = request.resources
    if wanted.disk_mib is not None or wanted.pids is not None:
        raise InvalidRequest("`resources`: a fork has the snapshot's `disk_mib` and `pids`", field="resources")
    if (
        source.resources is not None
        and (wanted.memory_mib or source.resources.memory_mib) < source.resources.memory_mib
    ):
        least = source.resources.memory_mib
        raise InvalidRequest(f"`memory_mib`: the snapshot's memory needs {least}", field="resources.memory_mib")
    return request.model_copy(update={"template": source.template})


def _template(name: str, templates: Sequence[TemplateInfo]) -> TemplateInfo:
    for template in templates:
        if template.name == name:
            return template
    names = sorted(template.name for template in templates)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"Did you mean {near[0]}?" if near else f"The templates are {', '.join(names)}."
    raise UnknownTemplate(f"there is no template {name!r}", hint=hint, field="template")


def _plain(request: CreateSandbox) -> None:
    for field in ("task", "llm_key", "llm_provider", "provider_tools", "model", "inputs", "outputs", "checkpoints"):
        if getattr(request, field) not in _UNSET:
            raise InvalidRequest(f"`{field}` goes with an `agent`", field=field, hint="Name the `agent` that runs it.")


def _task(request: CreateSandbox, template: TemplateInfo, agent: Agent) -> None:
    if request.task is None or not request.task.strip():
        raise InvalidRequest(f"the agent {agent.name} needs a `task`", field="task")
    if len(request.task.encode()) > MAX_PROMPT:
        raise PayloadTooLarge(f"`task` is at most {MAX_PROMPT >> 20} MiB", field="task")
    if agent.provider is not None and request.llm_key is None:
        raise MissingLlmKey(f"the agent {agent.name} needs a key of {agent.provider}", field="llm_key")
    if request.llm_key is not None and not _is_key(request.llm_key.get_secret_value()):
        raise InvalidRequest("`llm_key` is no key: it has spaces, or characters that no key has", field="llm_key")
    if agent.provider is not None and agent.name not in template.agents:
        raise InvalidRequest(
            f"the template {template.name} does not carry the agent {agent.name}",
            field="template",
            hint=f"The template {agent.name} does." if agent.name != template.name else None,
        )
    for glob in request.outputs:
        if not check_glob(glob):
            raise InvalidPath(f"{glob[:200]!r} leads outside", field="outputs")
    for wanted in request.inputs:
        if "\0" in wanted.path or len(wanted.path.encode()) > _MAX_INPUT_PATH:
            raise InvalidPath("an input's path has at most 4096 bytes and no NUL", field="inputs")
        if not isinstance(wanted, UploadInput) and wanted.type == "url" and wanted.path.endswith("/"):
            raise InvalidPath(f"{wanted.path[:200]!r} is a directory: name the file", field="inputs")


def _provider(request: CreateSandbox, agent: Agent, settings: Settings) -> None:
    """The provider that is named has to be there, and to speak as the agent does."""
    name = request.llm_provider
    if name is None:
        return
    if request.llm_key is None:
        raise MissingLlmKey(f"`llm_provider` {name} goes with an `llm_key`", field="llm_key")
    known: dict[str, LlmApi] = BUILT_IN | {own: endpoint.api for own, endpoint in settings.llm_providers.items()}
    if name not in known:
        raise InvalidRequest(
            f"there is no model provider {name!r}",
            field="llm_provider",
            hint=f"There are {', '.join(sorted(known))}; the operator names others in HUTCH_LLM_PROVIDERS.",
        )
    if agent.provider is not None and known[name] != agent.provider:
        raise InvalidRequest(
            f"{agent.name} calls providers as {agent.provider} is called, and {name} is called as {known[name]}",
            field="llm_provider",
        )


def _texts(request: CreateSandbox) -> None:
    for name, value in request.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest("a variable has a name without `=`, and no NUL", field="env", value=name[:200])
    for name in request.secrets:
        if name in request.env:
            raise InvalidRequest(f"{name[:200]} is both a variable and a secret", field="secrets", value=name[:200])
    if sum(len(name) + len(value) for name, value in request.env.items()) > _MAX_ENV:
        raise PayloadTooLarge(f"`env` is at most {_MAX_ENV >> 20} MiB", field="env")
    for name, value in request.labels.items():
        if not 0 < len(name) <= _MAX_LABEL_KEY or len(value) > _MAX_LABEL_VALUE or "\0" in name + value:
            raise InvalidRequest(
                f"a label has 1 to {_MAX_LABEL_KEY} characters and a value of at most {_MAX_LABEL_VALUE}",
                field="labels",
                value=name[:200],
            )
    if "\0" in (request.task or ""):
        raise InvalidRequest("`task` has a NUL", field="task")


def _is_key(key: str) -> bool:
    return 0 < len(key) <= 4096 and key.isascii() and key.isprintable() and " " not in key
