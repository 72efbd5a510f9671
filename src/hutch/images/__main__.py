"""`python -m hutch.images build NAME... | ls`: what `make setup` uses, before there is a node to ask."""

from __future__ import annotations

import argparse
import asyncio
import sys

from hutch.errors import HutchError
from hutch.images.catalog import ImageStore
from hutch.images.events import Log, Progress
from hutch.settings import get_settings


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hutch.images")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="list the templates and their images")
    build = commands.add_parser("build", help="build templates; does nothing for those that are built")
    build.add_argument("names", nargs="+", metavar="NAME")
    build.add_argument("--force", action="store_true", help="build anew")
    build.add_argument("--verbose", action="store_true", help="show what the steps print")
    return parser.parse_args()


async def _build(store: ImageStore, name: str, *, force: bool, verbose: bool) -> None:
    async for event in store.build(name, force=force):
        match event:
            case Progress():
                _say(f"[{name} {event.step}/{event.of}] {event.text}")
            case Log() if verbose:
                _say(f"    {event.line}")


def _list(store: ImageStore) -> None:
    for info in store.templates():
        built = f"{(info.image_bytes or 0) >> 20} MiB  {store.resolve(info.name).path}" if info.image else "not built"
        _say(f"{info.name:<16} {built}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command; the exit code."""
    arguments = _arguments()
    store = ImageStore(get_settings())
    try:
        if arguments.command == "ls":
            _list(store)
        else:
            for name in arguments.names:
                asyncio.run(_build(store, name, force=arguments.force, verbose=arguments.verbose))
    except HutchError as error:
        sys.stderr.write(f"{error}\n{error.extra.get('log', '')}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
