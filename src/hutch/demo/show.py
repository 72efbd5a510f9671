"""The show: a Hutch of its own in temporary directories, one task with an agent, and a look at what is left."""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from hutch.demo.leftovers import Traces, traces_of
from hutch.demo.scripted_model import ScriptedModel
from hutch.settings import get_settings

SAMPLE = Path(__file__).parent / "sample"
FOLDER = "wordcount"
TASK = (
    f"The folder {FOLDER}/ holds a small Python program, and one of its doctests fails. Find out why, mend the code "
    "(not the examples), run the doctests, and write report.md: what was wrong, and what you changed."
)
KEYS = {"claude-code": "ANTHROPIC_API_KEY", "codex": "OPENAI_API_KEY"}
_MAX_SHOWN = 16_000


class ShowError(Exception):
    """The demo cannot go on; what failed has said why."""


@dataclass(frozen=True)
class Cast:
    """Who plays."""

    agent: str
    scripted: bool

    @property
    def outputs(self) -> list[str]:
        return ["report.md"] if self.scripted else ["report.md", f"{FOLDER}/*.py"]


def choose(agent: str | None, scripted: bool) -> Cast:
    """The agent whose key is set; Claude Code with the scripted model when none is."""
    agents = [agent] if agent else list(KEYS)
    keyed = None if scripted else next((each for each in agents if os.environ.get(KEYS[each])), None)
    return Cast(keyed or agents[0], keyed is None)


class Show:
    """One performance."""

    def __init__(self, cast: Cast, json: bool) -> None:
        self._cast = cast
        self._json = json
        self._console = Console(stderr=json, highlight=False, emoji=False, soft_wrap=True)
        self._root = Path(tempfile.mkdtemp(prefix="hd-", dir="/tmp"))
        self._root.chmod(0o755)  # the server's user passes through
        self._environment = self._settings()
        self._interrupted = False

    async def run(self) -> int:
        """From start to end; the exit code."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)
        began = time.monotonic()
        model = ScriptedModel()
        code = 1
        try:
            self._open()
            if self._cast.scripted:
                self._use(await model.start())
            await self._start()
            code = await self._task()
            if not self._interrupted:
                self._show_outputs()
        finally:
            left = await self._stop()
            await model.stop()
        self._close(left, time.monotonic() - began)
        return 1 if left else code

    def say(self, text: str, style: str = "") -> None:
        """A line of ours."""
        self._console.print(Text(text, style=style))
        self._console.file.flush()  # before a child writes to the same place

    def _settings(self) -> dict[str, str]:
        """Embedded defaults in directories of its own, a free port; only the cache of built images is shared."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HUTCH_")}
        root, settings = self._root, get_settings()
        return {
            **kept,
            "HUTCH_DATA_DIR": str(root / "data"),
            "HUTCH_RUN_DIR": str(root / "run"),
            "HUTCH_CACHE_DIR": str(settings.cache_dir),
            "HUTCH_RUNSC": settings.runsc,
            "HUTCH_PORT": "0",
            "HUTCH_GATEWAY_PORT": "0",
            "HUTCH_SLOTS_AHEAD": "1",
            "XDG_CONFIG_HOME": str(root / "config"),
        }

    def _use(self, url: str) -> None:
        """Put the scripted model where the providers are."""
        self._environment |= {
            "HUTCH_ANTHROPIC_BASE_URL": url,
            "HUTCH_OPENAI_BASE_URL": f"{url}/v1",
            KEYS[self._cast.agent]: "scripted-model-needs-no-key",
        }

    def _open(self) -> None:
        self._console.print(Rule(Text("Hutch: every AI agent gets its own computer", style="bold"), style="dim"))
        name = {"claude-code": "Claude Code", "codex": "Codex"}[self._cast.agent]
        if self._cast.scripted:
            wanted = " or ".join(KEYS.values())
            self.say(
                f"The agent is the real {name} CLI. THE MODEL IS SCRIPTED: what it says follows a fixed story,",
                "yellow",
            )
            self.say(f"only the tools, the files and the sandbox are real. Set {wanted} for a real model.", "yellow")
        else:
            self.say(f"The agent is {name}, with {KEYS[self._cast.agent]} against the real provider (budget: $1).")

    async def _start(self) -> None:
        self.say("\n$ hutch up -d", "bold")
        up = json.loads(await self._answer("up", "-d", "--json"))
        self.say(f"hutch is up at {up['url']}; its files are in {self._root}")
        listed = await self._answer("template", "ls", "--json")
        if not any(each["name"] == self._cast.agent and each["image"] for each in json.loads(listed)):
            self.say(f"\n$ hutch template build {self._cast.agent}    (once; some minutes)", "bold")
            await self._must("template", "build", self._cast.agent, quiet=self._json)

    async def _task(self) -> int:
        budget = ["--budget-usd", "1", "--timeout", "5m"]
        outputs = [word for glob in self._cast.outputs for word in ("--output", glob)]
        shown = f"--agent {self._cast.agent} --input sample:{FOLDER} {' '.join(outputs)} {' '.join(budget)}"
        self.say(f'\n$ hutch run {shown} \\\n    "{TASK}"', "bold")
        files = ["--input", f"{SAMPLE}:{FOLDER}", "--exclude", "__pycache__", "--output-dir", str(self._root / "out")]
        options = ["--agent", self._cast.agent, *files, *outputs, *budget, *["--json"] * self._json]
        return await self._hutch("run", *options, TASK)

    def _show_outputs(self) -> None:
        """The files that came out of the sandbox; of those that went in, only what has changed."""
        for path in sorted((self._root / "out").rglob("*")):
            name = str(path.relative_to(self._root / "out"))
            if not path.is_file() or self._json:
                continue
            text = path.read_text(errors="replace")[:_MAX_SHOWN]
            if (before := SAMPLE / Path(name).name).exists():
                old = before.read_text().splitlines(keepends=True)
                text = "".join(difflib.unified_diff(old, text.splitlines(keepends=True), "before", "after"))
            if text:
                self._console.print()
                self._console.print(Rule(Text(name, style="bold"), align="left", style="dim"))
                self.say("".join(each for each in text if each.isprintable() or each in "\n\t").rstrip())

    async def _stop(self) -> Traces:
        """Take everything down, and look whether that was everything."""
        self.say("\n$ hutch down", "bold")
        traces = traces_of(self._root)
        await self._hutch("down", quiet=self._json)
        left = traces.left()
        shutil.rmtree(self._root, ignore_errors=True)
        return left

    def _close(self, left: Traces, seconds: float) -> None:
        if self._json:
            sys.stdout.write(json.dumps({"type": "demo", "seconds": round(seconds, 1), "left": left.names()}) + "\n")
        if left:
            return self.say(f"left behind: {', '.join(left.names())}", "bold red")
        self.say(f"Nothing is left: no sandbox, process, network, mount or file. {seconds:.0f} s in all.", "green")

    def _interrupt(self) -> None:
        """Ctrl-C reaches the command that runs, too, which stops its task; then we take everything down."""
        self._interrupted = True

    async def _must(self, *arguments: str, quiet: bool = False) -> None:
        if await self._hutch(*arguments, quiet=quiet) != 0 or self._interrupted:
            raise ShowError(f"`hutch {' '.join(arguments)}` did not succeed")

    async def _hutch(self, *arguments: str, quiet: bool = False) -> int:
        """Run the command as anyone would, on this terminal."""
        output = asyncio.subprocess.DEVNULL if quiet else None
        command = [sys.executable, "-m", "hutch.cli", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=output
        )
        return await process.wait()

    async def _answer(self, *arguments: str) -> bytes:
        """What a command prints."""
        command = [sys.executable, "-m", "hutch.cli", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await process.communicate()
        if process.returncode:
            raise ShowError(f"`hutch {' '.join(arguments)}` did not succeed")
        return answer
