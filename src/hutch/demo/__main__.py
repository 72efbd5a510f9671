"""`python -m hutch.demo`, which is `hutch demo` and `make demo`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from hutch.demo.show import Show, ShowError, choose


def main() -> int:
    """Run the demo; 1 when it could not be shown, or something was left behind."""
    parser = argparse.ArgumentParser(prog="hutch demo", description="One agent in a fresh sandbox; nothing is left.")
    parser.add_argument("--agent", choices=["claude-code", "codex"], help="default: by the key that is set")
    parser.add_argument("--scripted", action="store_true", help="the scripted model, even when a key is set")
    parser.add_argument("--json", action="store_true", help="JSON lines for programs")
    given = parser.parse_args()
    show = Show(choose(given.agent, given.scripted), given.json)
    try:
        return asyncio.run(show.run())
    except ShowError as error:
        show.say(f"error: {error}", "bold red")
        return 1


if __name__ == "__main__":
    sys.exit(main())
