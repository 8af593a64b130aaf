"""Structured logs: one event a line, JSON where no person watches."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

import structlog

from core.text import visible

_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_JSON: list[structlog.types.Processor] = [
    structlog.processors.format_exc_info,
    structlog.processors.JSONRenderer(),
]
_FILE_BYTES = 10_000_000


def configure_logging(*, level: str = "INFO") -> None:
    """Send our own and the libraries' logs to stderr: coloured on a terminal, JSON elsewhere.

    Tracebacks never show the values of variables, which may be secrets.
    """
    renderer: list[structlog.types.Processor]
    if sys.stderr.isatty():
        renderer = [
            _make_visible,
            structlog.dev.ConsoleRenderer(exception_formatter=_visible_traceback),
        ]
    else:
        renderer = _JSON
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(renderer))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Starts and migrations have lines of our own.
    for chatty in ("alembic", "uvicorn.error", "temporalio.worker"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # One line a request is the business of a proxy in front; ours would drown the rest.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _make_visible(
    _: structlog.types.WrappedLogger, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Let no text, as the name of a function, hide escape sequences from a terminal."""
    return {
        name: visible(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _visible_traceback(stream: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Write a traceback. The default is rich's, with all local variables."""
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write(visible(text.getvalue()))


class _OwnersFile(RotatingFileHandler):
    """Makes its files with mode 0600."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding)


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Send logs from INFO on to a file during the block, as JSON; others only from WARNING on.

    The file is its owner's alone; one that has grown to 10 MB is kept with `.1` at its name.

    Raises:
        OSError: it cannot be written.
    """
    handler = _OwnersFile(file, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(_formatter(_JSON))
    root = logging.getLogger()
    others, level = list(root.handlers), root.level
    levels = [other.level for other in others]
    for other in others:
        other.setLevel(max(other.level, logging.WARNING))
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        root.setLevel(level)
        for other, before in zip(others, levels, strict=True):
            other.setLevel(before)


def _formatter(renderer: list[structlog.types.Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
