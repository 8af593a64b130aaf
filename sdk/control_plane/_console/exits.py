"""How commands end: their exit statuses, and one line for each thing that goes wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from traceback import format_exception
from types import TracebackType
from typing import NoReturn
from urllib.parse import unquote

import click

from control_plane import errors
from control_plane._console.foreign import visible
from control_plane._console.output import echo


class Exit(IntEnum):
    """Exit statuses of all commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    TIMED_OUT = 4
    UNREACHABLE = 5
    NOT_FOUND = 6
    REFUSED = 7
    STILL_RUNNING = 8
    INTERRUPTED = 130


EPILOG = """\
\b
Exit status:
    0  done; the call has succeeded
    1  the call has failed, or what was asked for could not be done
    2  wrong usage or configuration
    3  the call was cancelled
    4  the call has timed out
    5  the server does not answer, or is not available
    6  there is no such project, version, function or call
    7  the server refuses the key
    8  --timeout has passed, and the call goes on
  130  interrupted by Ctrl-C
"""
"""For the help of the group and of the commands that end as a call has ended."""

STATUSES_OF_PHASES = {
    "SUCCEEDED": Exit.OK,
    "CANCELLED": Exit.CANCELLED,
    "TIMED_OUT": Exit.TIMED_OUT,
}


class CommandError(click.ClickException):
    """An error that is told in one line, and the status that the command ends with."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click reads it from the error raised

    def format_message(self) -> str:
        """Give the line; what hides in it is visible."""
        return visible(self.message)


@contextmanager
def visible_errors() -> Iterator[None]:
    """Make visible what hides in the texts of click's errors, as usage errors are."""
    try:
        yield
    except click.ClickException as error:
        shown = visible(error.format_message())
        error.format_message = lambda: shown  # type: ignore[method-assign]  # each kind has its own
        raise


def show_unexpected(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Show the traceback of an error that nobody expected, as `sys.excepthook` does."""
    echo("".join(format_exception(kind, error, traceback)).rstrip("\n"), err=True)


def exit_of_phase(phase: str) -> Exit:
    """Give the status for a call that has ended so."""
    return STATUSES_OF_PHASES.get(phase, Exit.FAILED)


@contextmanager
def told_plainly(server: str | None = None) -> Iterator[None]:
    """End the command in a line and a status where the library raises an error, or at Ctrl-C.

    Args:
        server: the address that the line names, where it is known.
    """
    try:
        yield
    except errors.ControlPlaneError as error:
        raise as_command_error(error, server=server) from None
    except KeyboardInterrupt:
        interrupted()


def interrupted() -> NoReturn:
    """End the command as one that Ctrl-C has ended."""
    echo("", err=True)
    sys.exit(Exit.INTERRUPTED)


def as_command_error(error: errors.ControlPlaneError, *, server: str | None) -> CommandError:
    """Say what is wrong and what to do about it."""
    message, status = str(error), Exit.FAILED
    match error:
        case errors.ConfigurationError():
            status = Exit.USAGE
        case errors.WaitTimeoutError():
            status = Exit.STILL_RUNNING
        case errors.ServerConnectionError():
            message = f"{message}. Is it up? `control-plane login` names another server"
            status = Exit.UNREACHABLE
        case errors.ServerUnavailableError():
            message, status = f"{message}. Try again in a while", Exit.UNREACHABLE
        case errors.AuthenticationError():
            hint = "`control-plane login` stores another key"
            message = f"{server or 'The server'} refuses the key: {error.detail}. {hint}"
            status = Exit.REFUSED
        case errors.NotFoundError():
            message, status = _what_is_missing(error), Exit.NOT_FOUND
    return CommandError(message, status)


MISSING_THINGS = (
    ("A project", "projects", "`control-plane list` shows the projects"),
    ("A version", "versions", "`control-plane list {projects} --versions` shows the versions"),
    ("A function", "functions", "`control-plane list {projects}` shows the functions"),
    ("An invocation", "invocations", "`control-plane list PROJECT FUNCTION` shows the calls"),
    ("An execution", "executions", "`control-plane describe {invocations}` shows the executions"),
)


def _what_is_missing(error: errors.ApiError) -> str:
    """Name the thing of the request's path that the server's text is about."""
    parts = [unquote(part) for part in error.request.partition(" ")[2].split("/")[1:]]
    names = dict(zip(parts[::2], parts[1::2], strict=False))
    for beginning, kind, hint in MISSING_THINGS:
        if error.detail.startswith(beginning) and kind in names:
            if kind == "versions" and names[kind].lower() == "latest":
                return f"The project {names['projects']!r} has no version yet; deploy one first"
            where = f" in {names['projects']!r}" if kind in ("versions", "functions") else ""
            return f"There is no {kind[:-1]} {names[kind]!r}{where}; {hint.format(**names)}"
    slashed = next((name for name in names.values() if "/" in name), None)
    if slashed is not None:
        # The API knows no such address: some write a project and its function as one word.
        return f"There is no {slashed!r}: names have no '/'; write PROJECT FUNCTION"
    return str(error)
