"""A log on a full disk is no error of whoever writes to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from hutch.{part}.logs import configure_logs
from hutch.settings import Settings
configure_logs(Settings(log_json={json}))
import structlog
log = structlog.get_logger()
for _ in range(200):
    log.info("all is well", size="x" * 100)
try:
    raise ValueError
except ValueError:
    log.exception("all is lost")
print("went on")
"""


@pytest.mark.parametrize(("part", "json"), [("node", False), ("api", True)])
def test_a_line_that_cannot_be_written_is_lost_and_no_error(part: str, json: bool) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PROGRAM.format(part=part, json=json)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"went on\n"


def test_the_others_are_written() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(part="node", json=False)], capture_output=True, check=True
    )
    assert done.stderr.count(b"all is well") == 200 and b"ValueError" in done.stderr
