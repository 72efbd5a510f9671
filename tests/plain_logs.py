"""What daemons' code logs in a test, where nothing else is set up."""

from __future__ import annotations

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback


def use() -> None:
    """As structlog has it by default, but for tracebacks: Rich takes seconds to paint one, and tests make hundreds."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            ConsoleRenderer(colors=False, exception_formatter=plain_traceback),
        ],
    )
