"""A task's inputs as people write them: a local path, a URL, a git repository; and what goes over the wire for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from hutch.errors import InvalidRequest
from hutch.model import GitInput, Input, UrlInput


@dataclass(frozen=True)
class LocalInput:
    """A local file or directory that is sent along.

    `to` is its path in the sandbox, relative to the task's working directory; by default its own name. For a
    directory, "." means that its contents go into the working directory itself.
    """

    path: Path
    to: str | None = None
    exclude: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Its name in the tar; "" for the bare contents of a directory."""
        own = self.path.resolve().name
        if self.to is None:
            return own
        if self.to.endswith("/") and not self.path.is_dir():
            return str(PurePosixPath(self.to) / own)
        name = str(PurePosixPath(self.to))
        return ("" if self.path.is_dir() else own) if name == "." else name

    def check(self) -> None:
        """Raise when it cannot be sent, before anything is."""
        if not self.path.exists():
            raise InvalidRequest(f"input {str(self.path)!r} does not exist", field="inputs")
        if not os.access(self.path, os.R_OK):
            raise InvalidRequest(f"input {str(self.path)!r} may not be read", field="inputs")
        if self.to is not None and (".." in PurePosixPath(self.to).parts or self.to.startswith("/")):
            raise InvalidRequest(
                f"input {str(self.path)!r} is to go to {self.to!r}, outside the working directory", field="inputs"
            )


AnyInput = str | os.PathLike[str] | LocalInput | Input
"""What `inputs` takes; text is read by `parse_input`."""


def parse_input(text: str, exclude: Sequence[str] = ()) -> LocalInput | UrlInput | GitInput:
    """`PATH[:TO]`, `https://host/file`, or `git+https://host/repo[@COMMIT]`."""
    if text.startswith(("git+https://", "git+http://")):
        return _git(text.removeprefix("git+"))
    if text.startswith(("https://", "http://")):
        name = PurePosixPath(urlsplit(text).path).name
        if not name:
            raise InvalidRequest(f"the URL {text!r} names no file", field="inputs")
        return UrlInput(type="url", url=text, path=name)
    path, colon, to = text.rpartition(":")
    if not colon or Path(text).exists():
        path, to = text, ""
    return LocalInput(Path(path).expanduser(), to or None, exclude)


def _git(url: str) -> GitInput:
    head, at, commit = url.rpartition("@")
    if not at or "/" not in urlsplit(head).path:  # the @ of user@host, not of a commit
        head, commit = url, "HEAD"
    name = PurePosixPath(urlsplit(head).path).name.removesuffix(".git")
    return GitInput(type="git", url=head, commit=commit, path=name or ".")


def read_input(value: AnyInput) -> LocalInput | Input:
    """Any of the ways to write an input, as a local input or one for the wire."""
    if isinstance(value, str):
        return parse_input(value)
    if isinstance(value, os.PathLike):
        return LocalInput(Path(value).expanduser())
    return value
