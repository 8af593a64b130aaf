"""Waiting for a call's end: what is shown meanwhile, what is printed at the end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from control_plane._call.invocation import result_of
from control_plane._console import output
from control_plane._console.exits import CommandError, Exit, as_command_error, exit_of_phase
from control_plane._console.foreign import Safe, json_of, json_text, log_lines, one_line
from control_plane._http.client import Client
from control_plane._http.follower import Follower, Line, Output
from control_plane.errors import (
    ControlPlaneError,
    InvocationFailedError,
    ServerConnectionError,
    ServerUnavailableError,
    WaitTimeoutError,
)
from control_plane.models import InvocationInfo, InvocationPath

if TYPE_CHECKING:
    from control_plane._console.terminal import StatusLine


class Display(Protocol):
    """Where states and lines are shown while one waits."""

    def state(self, info: InvocationInfo) -> None:
        """Show how it is."""
        ...

    def line(self, line: Line) -> None:
        """Show a line of output."""
        ...


class _NoDisplay:
    def state(self, info: InvocationInfo) -> None:
        pass

    def line(self, line: Line) -> None:
        pass


class _JsonLines:
    """Each event as a JSON object on a line of standard output."""

    def state(self, info: InvocationInfo) -> None:
        _json_line({"event": "state", "invocation": info.raw})

    def line(self, line: Line) -> None:
        _json_line({"event": "log", **log_event(line)})


class _PlainLines:
    """What changes, in lines on standard error."""

    def __init__(self) -> None:
        self._said = ""
        self._progress = ""

    def state(self, info: InvocationInfo) -> None:
        said, progress = _state_text(info), output.progress_text(info.progress)
        if said != self._said:
            output.echo(f"[{said}]", err=True)
        if progress and progress != self._progress:
            output.echo(f"[{progress}]", err=True)
        self._said, self._progress = said, progress

    def line(self, line: Line) -> None:
        for each in log_lines(line.text, colours=False):
            output.echo(each, err=True)


class _TerminalDisplay:
    """A line that changes, below the output."""

    def __init__(self, status: "StatusLine") -> None:
        self._status = status

    def state(self, info: InvocationInfo) -> None:
        detail = _state_text(info).removeprefix(info.phase)
        progress = output.progress_text(info.progress)
        self._status.show(info.phase, detail=detail, progress=progress)

    def line(self, line: Line) -> None:
        self._status.log(line.text)


def _state_text(info: InvocationInfo) -> Safe:
    parts = [info.phase]
    if info.queue_position is not None:
        parts.append(f"place {info.queue_position} in the queue")
    if info.phase_detail:
        parts.append(info.phase_detail)
    return one_line(", ".join(parts))


def log_event(line: Line) -> dict[str, object]:
    """Give a line of output as JSON."""
    return {"execution_id": line.execution_id, "attempt": line.attempt, "line": line.text}


def _json_line(value: object) -> None:
    output.echo(json_of(value))


@contextmanager
def _display(*, follow: bool, as_json: bool) -> Iterator[Display]:
    if as_json:
        yield _JsonLines() if follow else _NoDisplay()
    elif output.is_terminal(sys.stderr):
        # Imported here: rich takes longer to import than the rest of a command.
        from control_plane._console import terminal  # noqa: PLC0415 - see above

        with terminal.StatusLine() as status:
            yield _TerminalDisplay(status)
    else:
        yield _PlainLines() if follow else _NoDisplay()


@contextmanager
def goes_on_without_us(client: Client, invocation_id: str) -> Iterator[None]:
    """Say, when waiting ends early, that the call does not."""
    cancel = f"`control-plane cancel {invocation_id}` cancels it"
    try:
        yield
    except KeyboardInterrupt:
        output.echo(f"\n{invocation_id} goes on; {cancel}", err=True)
        sys.exit(Exit.INTERRUPTED)
    except WaitTimeoutError as error:
        raise CommandError(f"{error}, and goes on; {cancel}", Exit.STILL_RUNNING) from None
    except (ServerConnectionError, ServerUnavailableError) as error:
        told: ControlPlaneError = error
        message = as_command_error(told, server=client.url).message
        raise CommandError(f"{message}. {invocation_id} may go on", Exit.UNREACHABLE) from None


def wait_and_end(
    client: Client,
    path: InvocationPath,
    *,
    follow: bool,
    as_json: bool,
    timeout: float | None,
) -> None:
    """Say a call's id, wait for its end, print its result, and end the command as the call has.

    Args:
        client: the server.
        path: the call.
        follow: show its states, progress and output meanwhile.
        as_json: print the whole invocation at the end and nothing else; with `follow`, each event
            as a line.
        timeout: seconds to wait at most.
    """
    last: InvocationInfo | None = None
    with goes_on_without_us(client, path.invocation_id):
        # In here: a person who has seen the id may press Ctrl-C.
        if not as_json:
            output.echo(one_line(path.invocation_id), err=True)
        follower = Follower(
            client.exchange, path, output=Output() if follow else None, timeout=timeout
        )
        with _display(follow=follow, as_json=as_json) as display:
            for event in client.iterate(follower.events()):
                if isinstance(event, Line):
                    display.line(event)
                else:
                    last = event
                    if not event.has_ended:
                        display.state(event)
    assert last is not None  # noqa: S101 - a watch gives the last state
    if as_json:
        if follow:
            _json_line({"event": "end", "invocation": last.raw})
        else:
            output.print_json(last.raw)
    else:
        _print_result(last)
    sys.exit(exit_of_phase(last.phase))


def _print_result(info: InvocationInfo) -> None:
    try:
        value = result_of(info)
    except InvocationFailedError as error:
        attempts = len(info.executions)
        after = f" after {attempts} attempts" if attempts > 1 else ""
        output.echo(f"Error: {info.function_name} has failed{after}: {error.error}", err=True)
        if error.remote_traceback:
            output.echo(error.remote_traceback, err=True)
        output.remark(f"`control-plane describe {info.invocation_id}` shows more")
    except ControlPlaneError as error:
        output.echo(f"Error: {error}", err=True)
    else:
        text = info.executions[-1].output if info.executions else None
        if output.is_terminal(sys.stdout) and isinstance(value, dict | list):
            output.print_json(value)
        else:
            output.echo("null" if text is None else _as_json_text(text, value))


def _as_json_text(text: str, value: object) -> Safe:
    # A worker in another language may give what is not JSON: then it is a text.
    return json_of(text) if value == text and text[:1] != '"' else json_text(text)
