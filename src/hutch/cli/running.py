"""`hutch run`: one task in a fresh sandbox, from the call to the files it made."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperCommand

from hutch.cli import run_options as opt
from hutch.cli.common import Json, connection, leave
from hutch.cli.common import run as run_async
from hutch.cli.executing import read_env
from hutch.cli.identity import identity_of
from hutch.cli.sandboxes import labels_of
from hutch.cli.session import Job, Session
from hutch.cli.units import parse_duration
from hutch.cli.volumes import volumes_of
from hutch.errors import InvalidRequest, MissingLlmKey
from hutch.model import Budget, Checkpoints, ResourcesOverride
from hutch.sdk.inputs import parse_input
from hutch.sdk.wire import refuse

KEYS = {"claude-code": "ANTHROPIC_API_KEY", "codex": "OPENAI_API_KEY"}
"""Where an agent's key is looked for when `--llm-key-env` does not say."""
_DASHES = "hutch.dashes"


class RunCommand(TyperCommand):
    """Remembers whether there was a `--`: what stands after it is a command, not a prompt."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_DASHES] = "--" in args
        return super().parse_args(ctx, args)


def run(
    ctx: typer.Context,
    task: opt.Words = None,
    agent: opt.Agent = None,
    model: opt.ModelName = None,
    llm_key_env: opt.LlmKeyEnv = None,
    llm_provider: opt.LlmProvider = None,
    provider_tools: opt.ProviderTools = None,
    input: opt.Inputs = [],  # noqa: B006
    exclude: opt.Excludes = [],  # noqa: B006
    output: opt.Outputs = [],  # noqa: B006
    output_dir: opt.OutputDir = Path(),
    timeout: opt.RunTime = None,
    budget_usd: opt.Dollars = None,
    budget_tokens: opt.Tokens = None,
    template: opt.Template = None,
    source: opt.From = None,
    fallback: opt.Fallback = False,
    network: opt.Network = [],  # noqa: B006
    env: opt.Environment = [],  # noqa: B006
    secret: opt.Secrets = [],  # noqa: B006
    label: opt.Labels = [],  # noqa: B006
    identity: opt.Identities = [],  # noqa: B006
    volume: opt.Volumes = [],  # noqa: B006
    cpus: opt.Cpus = None,
    memory: opt.Memory = None,
    disk: opt.Disk = None,
    pids: opt.Pids = None,
    lifetime: opt.Lifetime = None,
    idle_timeout: opt.IdleTimeout = None,
    keep: opt.Keep = False,
    checkpoints: opt.CheckpointsOption = None,
    detach: opt.Detach = False,
    json: Json = False,
) -> None:
    """Run an agent, or any command, in a fresh sandbox.

    Streams what it does, writes the files it made, prints the meter, and destroys the sandbox. Ctrl-C stops the task
    (files made so far are kept), a second Ctrl-C leaves it running. Exit code: 0 done; the agent's own or 1 failed;
    3 budget used up (time, dollars or tokens); 4 lifetime over; 5 cancelled. With --json: events, one a line.
    """
    words, dashes = task or [], bool(ctx.meta.get(_DASHES))
    chosen = agent or ("command" if dashes else _agent_of_keys(llm_key_env))
    fields = {
        "template": template,
        "agent": chosen,
        "task": _prompt(words, chosen),
        "llm_key": _key(chosen, llm_key_env),
        "llm_provider": llm_provider,
        "provider_tools": provider_tools,
        "model": model,
        "outputs": output,
        "budget": _checked(Budget, run_time=timeout, llm_usd=budget_usd, llm_tokens=budget_tokens),
        "keep": keep,
        "checkpoints": _checkpoints(checkpoints),
        "network": network or None,
        "resources": _checked(ResourcesOverride, cpus=cpus, memory_mib=memory, disk_mib=disk, pids=pids),
        "env": read_env(env),
        "secrets": secret,
        "labels": labels_of(label),
        "identity": identity_of(identity),
        "volumes": volumes_of(volume),
        "lifetime": lifetime,
        "idle_timeout": idle_timeout,
        "from_snapshot": source,
        "fallback": "disk" if fallback else None,
    }
    job = Job(fields, [parse_input(each, exclude) for each in input], output_dir, detach, json)
    leave(run_async(Session(connection(ctx), job).run()))


def _agent_of_keys(llm_key_env: str | None) -> str:
    """The agent whose key is here."""
    for agent, name in KEYS.items():
        if os.environ.get(name) or llm_key_env == name:
            return agent
    raise InvalidRequest(
        "which agent? None was named, and neither ANTHROPIC_API_KEY nor OPENAI_API_KEY is set",
        hint='`hutch run --agent claude-code "..."`, or `hutch run -- COMMAND` for a plain command.',
    )


def _prompt(words: list[str], agent: str) -> str:
    if words == ["-"]:
        words = [sys.stdin.read()]
    if agent == "command" and len(words) > 1:
        return shlex.join(words)
    text = " ".join(words)
    if not text.strip():
        raise typer.BadParameter("give the task, or a command after `--`")
    return text


def _key(agent: str, named: str | None) -> str | None:
    name = named or KEYS.get(agent)
    value = os.environ.get(name) if name else None
    if value or (agent not in KEYS and not named):
        return value
    raise MissingLlmKey(
        f"{agent} needs its model provider's key, and {name} is not set",
        hint=f"export {name}=..., or name the variable that has it with --llm-key-env.",
    )


def _checkpoints(given: str | None) -> Checkpoints | None:
    """Seconds, where it is no word."""
    match given:
        case None | "turns" | "off":
            return given
    return parse_duration(given)


def _checked(model: type[Any], **fields: Any) -> Any:
    try:
        return model(**fields)
    except ValidationError as error:
        refuse(error)
