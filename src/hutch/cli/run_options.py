"""The options of `hutch run`, by group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hutch.cli.units import parse_duration, parse_mib

_TASK, _BUDGET, _FILES, _BOX = "Task", "Budget", "Files", "Sandbox"

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TASK | -- COMMAND...", help="What to do; `-` reads it from standard input. After `--`: a command."
    ),
]
Agent = Annotated[
    str | None, typer.Option("--agent", "-a", help="claude-code, codex or command.", rich_help_panel=_TASK)
]
ModelName = Annotated[str | None, typer.Option("--model", "-m", help="The agent's model.", rich_help_panel=_TASK)]
LlmKeyEnv = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Environment variable that holds the model provider's key. "
        "Default: ANTHROPIC_API_KEY or OPENAI_API_KEY, by agent.",
        rich_help_panel=_TASK,
    ),
]
ProviderTools = Annotated[
    str | None,
    typer.Option(
        metavar="allow|deny",
        help="Whether the model provider may itself reach the network: search, fetch, call MCP servers, read URLs. "
        "Default: where the sandbox reaches all that is public.",
        rich_help_panel=_TASK,
    ),
]
LlmProvider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model provider that the key is for, such as one that the operator has named.",
        rich_help_panel=_TASK,
    ),
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        metavar="PATH[:TO]",
        help="A file or directory to send along, a URL, or git+https://host/repo@COMMIT. "
        "`:.` puts a directory's contents into the working directory.",
        rich_help_panel=_FILES,
    ),
]
Excludes = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        "-x",
        metavar="PATTERN",
        help="Leave out of local inputs, for example node_modules.",
        rich_help_panel=_FILES,
    ),
]
Outputs = Annotated[
    list[str],
    typer.Option(
        "--output",
        "-o",
        metavar="GLOB",
        help="Files to keep, relative to the working directory.",
        rich_help_panel=_FILES,
    ),
]
OutputDir = Annotated[Path, typer.Option(help="Where to put them.", rich_help_panel=_FILES)]
RunTime = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        parser=parse_duration,
        metavar="DURATION",
        help="Stop it after this run time: 90s, 10m, 1h30m.",
        rich_help_panel=_BUDGET,
    ),
]
Dollars = Annotated[
    float | None,
    typer.Option(
        "--budget-usd", metavar="DOLLARS", help="Stop it when the model has cost this much.", rich_help_panel=_BUDGET
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option("--budget-tokens", metavar="TOKENS", help="Stop it after this many tokens.", rich_help_panel=_BUDGET),
]
CheckpointsOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoints",
        metavar="turns|off|DURATION",
        help="When to take snapshots to go back to: at each turn of the agent, never (default), or every 30s.",
        rich_help_panel=_BOX,
    ),
]
Template = Annotated[
    str | None,
    typer.Option("--template", "-t", help="Default: the agent's own, or standard.", rich_help_panel=_BOX),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="SNAPSHOT", help="Go on from this snapshot (its id).", rich_help_panel=_BOX),
]
Fallback = Annotated[
    bool,
    typer.Option(
        "--fallback", help="With --from: boot from its files where memory does not fit.", rich_help_panel=_BOX
    ),
]
Network = Annotated[
    list[str],
    typer.Option(
        metavar="RULE",
        help="What it may reach: `pypi.org`, `*.example.com:443`, `192.0.2.0/24:22`, a policy such as `packages`, "
        "`deny_all` (default) or `allow_all`. May be given several times.",
        rich_help_panel=_BOX,
    ),
]
Environment = Annotated[
    list[str],
    typer.Option("--env", "-e", help="NAME=VALUE, or NAME to take it from here.", rich_help_panel=_BOX),
]
Secrets = Annotated[
    list[str],
    typer.Option(
        "--secret",
        metavar="NAME",
        help="A secret that it may use without seeing it (`hutch secret set`); --network has to allow its hosts. "
        "May be given several times.",
        rich_help_panel=_BOX,
    ),
]
Labels = Annotated[list[str], typer.Option("--label", "-l", help="name=value.", rich_help_panel=_BOX)]
Volumes = Annotated[
    list[str],
    typer.Option(
        "--volume",
        metavar="NAME:PATH",
        help="A volume (`hutch volume`), and where it is mounted. May be given several times.",
        rich_help_panel=_BOX,
    ),
]
Identities = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=VALUE",
        help="What its identity token says: app=, user=, repository= or permission=. May be given several times.",
        rich_help_panel=_BOX,
    ),
]
Cpus = Annotated[float | None, typer.Option(help="CPU cores, for example 0.5.", rich_help_panel=_BOX)]
Memory = Annotated[
    int | None, typer.Option(parser=parse_mib, metavar="SIZE", help="For example 2G.", rich_help_panel=_BOX)
]
Disk = Annotated[
    int | None, typer.Option(parser=parse_mib, metavar="SIZE", help="For written files.", rich_help_panel=_BOX)
]
Pids = Annotated[int | None, typer.Option(help="Most processes.", rich_help_panel=_BOX)]
Lifetime = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="Destroy the sandbox after this, whatever happens.",
        rich_help_panel=_BOX,
    ),
]
IdleTimeout = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="Pause the sandbox after this without use, when the task has ended (with --keep).",
        rich_help_panel=_BOX,
    ),
]
Keep = Annotated[bool, typer.Option("--keep", help="Keep the sandbox when the task ends.", rich_help_panel=_BOX)]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Do not wait; print the task's id.", rich_help_panel="Output")
]
