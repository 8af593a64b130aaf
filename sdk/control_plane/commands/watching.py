"""Waiting for a call's end: what is shown meanwhile, what is printed at the end."""

# ruff: noqa: PLC0415 - rich takes longer to import than the rest of a command

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import click

from control_plane.commands import output
from control_plane.commands.exits import CommandError, Exit, as_command_error, exit_of_phase

if TYPE_CHECKING:
    from control_plane._http.client import Client
    from control_plane.models import Execution, InvocationInfo, InvocationPath

_SHORTEST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0


@dataclass(frozen=True)
class Line:
    """A line of an execution's output."""

    execution: "Execution"
    text: str


@dataclass
class LogReader:
    """Reads an execution's output as far as it goes, again and again."""

    since: float | None = None
    tail: int | None = None
    ended: bool = False
    _offset: str | None = field(default=None, init=False)

    def read(
        self, client: "Client", path: "InvocationPath", execution: "Execution"
    ) -> Iterator[str]:
        """Give the lines that are there and were not given before.

        `execution` must have been read before: if it was TERMINATED then, this sees all lines.
        """
        while not self.ended:
            first = self._offset is None
            page = client.get_logs(
                path,
                execution.execution_id,
                offset=self._offset,
                since=self.since if first else None,
                tail=self.tail if first else None,
            )
            yield from page.log_lines
            if page.next_offset is None:
                # Before there is a worker, there is neither a line nor an offset.
                waits = first and not page.log_lines and execution.worker_status != "TERMINATED"
                self.ended = not waits
                return
            self._offset = page.next_offset
            if not page.log_lines:
                return


def watch(
    client: "Client",
    path: "InvocationPath",
    *,
    timeout: float | None = None,
    readers: dict[str, LogReader] | None = None,
    first_attempt: int = 1,
) -> "Iterator[InvocationInfo | Line]":
    """Give a call's state as often as it changes, and its lines as they come, until it has ended.

    The last state is given after the last line.

    Args:
        client: the server.
        path: the call.
        timeout: seconds to watch at most.
        readers: the readers of the executions' output by their ids, which is added to; None for
            no output.
        first_attempt: the first one whose output is wanted.

    Raises:
        WaitTimeoutError: it has not ended in time.
    """
    # Imported here, so that `--help` is quick.
    from control_plane.errors import WaitTimeoutError

    until = None if timeout is None else time.monotonic() + timeout
    pause, seen = 0.0, None
    while True:
        began = time.monotonic()
        left = _LONGEST_PAUSE if until is None else max(0.0, until - began)
        info = client.get_invocation(path, wait=min(pause, left))
        is_news = info.raw != seen
        if is_news and not info.has_ended:
            yield info
        seen = info.raw
        if readers is not None:
            for execution in info.executions:
                if execution.attempt >= first_attempt:
                    reader = readers.setdefault(execution.execution_id, LogReader())
                    for text in reader.read(client, path, execution):
                        is_news = True
                        yield Line(execution, text)
        if info.has_ended:
            yield info
            return
        if until is not None and time.monotonic() >= until:
            raise WaitTimeoutError(
                f"{info.invocation_id} has not ended within {timeout:g} seconds; it is "
                f"{info.phase}, and goes on"
            )
        pause = _SHORTEST_PAUSE if is_news else min(max(pause, _SHORTEST_PAUSE) * 1.5, 1.0)
        # A server that is being stopped answers at once.
        time.sleep(max(0.0, _SHORTEST_PAUSE / 2 - (time.monotonic() - began)))


class Display(Protocol):
    """Where states and lines are shown while one waits."""

    def state(self, info: "InvocationInfo") -> None:
        """Show how it is."""
        ...

    def line(self, line: Line) -> None:
        """Show a line of output."""
        ...


class _Silence:
    def state(self, info: "InvocationInfo") -> None:
        pass

    def line(self, line: Line) -> None:
        pass


class _JsonLines:
    """Each event as a JSON object on a line of standard output."""

    def state(self, info: "InvocationInfo") -> None:
        _json_line({"event": "state", "invocation": info.raw})

    def line(self, line: Line) -> None:
        _json_line({"event": "log", **log_event(line)})


class _PlainLines:
    """What changes, in lines on standard error."""

    def __init__(self) -> None:
        self._said = ""
        self._progress = ""

    def state(self, info: "InvocationInfo") -> None:
        said, progress = _state_text(info), output.progress_text(info.progress)
        if said != self._said:
            click.echo(f"[{said}]", err=True)
        if progress and progress != self._progress:
            click.echo(f"[{progress}]", err=True)
        self._said, self._progress = said, progress

    def line(self, line: Line) -> None:
        click.echo(line.text, err=True)


class _Status:
    """On a terminal: a line that changes, below the output."""

    def __init__(self) -> None:
        from rich.status import Status

        self._console = output.console(stderr=True)
        self.status = Status("", console=self._console, refresh_per_second=8)

    def state(self, info: "InvocationInfo") -> None:
        from rich.text import Text

        text = Text()
        text.append(info.phase, style=output.STYLES.get(info.phase, ""))
        rest = _state_text(info)[len(info.phase) :]
        if rest:
            text.append(rest, style="dim")
        progress = output.progress_text(info.progress)
        if progress:
            text.append(f"  {progress}")
        text.no_wrap, text.overflow = True, "ellipsis"
        self.status.update(text)

    def line(self, line: Line) -> None:
        from rich.text import Text

        self._console.print(Text.from_ansi(line.text), soft_wrap=True)


def _state_text(info: "InvocationInfo") -> str:
    parts = [info.phase]
    if info.queue_position is not None:
        parts.append(f"place {info.queue_position} in the queue")
    if info.phase_detail:
        parts.append(" ".join(info.phase_detail.split()))
    return ", ".join(parts)


def log_event(line: Line) -> dict[str, object]:
    """Give a line of output as JSON."""
    execution = line.execution
    return {
        "execution_id": execution.execution_id,
        "attempt": execution.attempt,
        "line": line.text,
    }


def _json_line(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


@contextmanager
def _display(*, follow: bool, as_json: bool) -> Iterator[Display]:
    if as_json:
        yield _JsonLines() if follow else _Silence()
    elif output.is_terminal(sys.stderr):
        display = _Status()
        with display.status:
            yield display
    else:
        yield _PlainLines() if follow else _Silence()


@contextmanager
def goes_on_without_us(client: "Client", invocation_id: str) -> Iterator[None]:
    """Say, when waiting ends early, that the call does not."""
    # Imported here, so that `--help` is quick.
    from control_plane.errors import (
        ControlPlaneError,
        ServerConnectionError,
        ServerUnavailableError,
        WaitTimeoutError,
    )

    cancel = f"`control-plane cancel {invocation_id}` cancels it"
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\n{invocation_id} goes on; {cancel}", err=True)
        sys.exit(Exit.INTERRUPTED)
    except WaitTimeoutError as error:
        raise CommandError(f"{error}; {cancel}", Exit.STILL_RUNNING) from None
    except (ServerConnectionError, ServerUnavailableError) as error:
        told: ControlPlaneError = error
        message = as_command_error(told, server=client.url).message
        raise CommandError(f"{message}. {invocation_id} may go on", Exit.UNREACHABLE) from None


def wait_and_end(
    client: "Client",
    path: "InvocationPath",
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
    readers: dict[str, LogReader] | None = {} if follow else None
    last: InvocationInfo | None = None
    with goes_on_without_us(client, path.invocation_id):
        # In here: whoever has seen the id may press Ctrl-C.
        if not as_json:
            click.echo(path.invocation_id, err=True)
        with _display(follow=follow, as_json=as_json) as display:
            for event in watch(client, path, timeout=timeout, readers=readers):
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


def _print_result(info: "InvocationInfo") -> None:
    # Imported here, so that `--help` is quick.
    from control_plane._call.invocation import result_of
    from control_plane.errors import ControlPlaneError, InvocationFailedError

    try:
        value = result_of(info)
    except InvocationFailedError as error:
        attempts = len(info.executions)
        after = f" after {attempts} attempts" if attempts > 1 else ""
        click.echo(f"Error: {info.function_name} has failed{after}: {error.error}", err=True)
        if error.remote_traceback:
            click.echo(error.remote_traceback, err=True)
        output.remark(f"`control-plane describe {info.invocation_id}` shows more")
    except ControlPlaneError as error:
        click.echo(f"Error: {error}", err=True)
    else:
        text = info.executions[-1].output if info.executions else None
        if output.is_terminal(sys.stdout) and isinstance(value, dict | list):
            output.print_json(value)
        else:
            click.echo("null" if text is None else _as_json_text(text, value))


def _as_json_text(text: str, value: object) -> str:
    # A worker in another language may give what is not JSON: then it is a text.
    return json.dumps(text, ensure_ascii=False) if value == text and text[:1] != '"' else text
