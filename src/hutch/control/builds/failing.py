"""How builds fail."""

from __future__ import annotations

from hutch.control.builds.spec import Step
from hutch.errors import HutchError

BASE, FINALIZE = "base", "finalize"
"""What E2B's clients call what comes before the first step, and after the last one. A step is called by its number."""

_MOST = 4000


class BuildFailed(Exception):
    """The build has failed for good. `step`: in which of its parts; `message`: for whoever wrote it."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.message = message[:_MOST]


def failure(step: Step, label: str, error: HutchError) -> str:
    """What is said of a step that has failed."""
    if label == BASE:
        return f"the image cannot be made ready for steps: {error.detail}"
    return f"step {label}, {step.text}, failed: {error.detail}"


def told(error: HutchError) -> str:
    """An error with the last of what was printed, where that says more, and with the way out."""
    printed = str(error.extra.get("log", "")).strip()
    if printed and printed[-100:] not in error.detail:
        return f"{error.detail}: {printed[-2000:]}"
    return str(error)
