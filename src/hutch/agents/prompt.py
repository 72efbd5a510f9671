"""How a task's text reaches an agent."""

from __future__ import annotations

_LONGEST = 400_000
"""Characters that go in as a message. Codex refuses more than 1,048,576, and Claude Code what its model's context
cannot hold; a file can be read in parts."""

_FILE = ".hutch-task.md"
_POINTER = (
    f"Your task is too long for a message: it is in the file ~/{_FILE} ({{size}} characters). "
    "Read that file, in parts if need be, and do what it asks."
)


def deliver(prompt: str) -> tuple[bytes, dict[str, bytes]]:
    """What to give on standard input, and the files to write first."""
    text = prompt.encode("utf-8", "replace")
    if len(prompt) <= _LONGEST:
        return text, {}
    return _POINTER.format(size=len(prompt)).encode(), {_FILE: text}
