"""Structured logs: one event a line, JSON where no person watches."""

import logging
import sys

import structlog


def configure_logging(*, level: str = "INFO") -> None:
    """Send our own and the libraries' logs to stderr: coloured on a terminal, JSON elsewhere.

    Tracebacks never show the values of variables, which may be secrets.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.types.Processor]
    if sys.stderr.isatty():
        renderer = [
            # The default is rich's traceback, with all local variables.
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]
    else:
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Starts and migrations have lines of our own.
    for chatty in ("alembic", "uvicorn.error", "temporalio.worker"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # One line a request is the business of a proxy in front; ours would drown the rest.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
