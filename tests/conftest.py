"""What all tests share."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading

import hypothesis
import pytest

from tests import plain_logs

# Sandboxes are booted, always in the same way, but where a test wants it otherwise.
os.environ.setdefault("HUTCH_TEMPLATE_SNAPSHOTS", "false")
os.environ.setdefault("HUTCH_WARM_POOL_MIB", "0")
# Two of them at once would want the same port.
os.environ.setdefault("HUTCH_GATEWAY_PORT", "0")

plain_logs.use()

# How long one example takes says nothing of the code on a machine that others use too.
hypothesis.settings.register_profile("hutch", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("hutch")

_RANDOM = re.compile(r"\b([a-z]{3})_[a-z2-7]{22}\b")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a test alike every time, also where a parameter holds an id made when tests are collected: workers must
    collect the same tests, and `--last-failed` must find them again."""
    return _RANDOM.sub(r"\1", val) if isinstance(val, str) and _RANDOM.search(val) else None


def pytest_configure() -> None:
    """Whoever ends a run as CI and `timeout` do gets what Ctrl-C gets: fixtures put away what tests have made on this
    machine. Workers are processes with this file too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is there by now stays: a collection of garbage, of which some tests ask for many, passes it by."""
    gc.collect()
    gc.freeze()
