"""Logs: structured, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog

from hutch.logfile import lossy
from hutch.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Lines for people, or JSON; ours and the libraries'."""
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    renderer: structlog.types.Processor = structlog.processors.JSONRenderer()
    if not settings.log_json:
        plain = structlog.dev.plain_traceback  # the default one prints local variables: keys would be among them
        renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if settings.log_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(lossy(sys.stderr)),
        cache_logger_on_first_use=True,
    )
