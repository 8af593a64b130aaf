"""The command `control-plane logs`."""

# ruff: noqa: PLC0415 - quick --help

import json
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from control_plane.commands.output import json_option, remark
from control_plane.commands.server import server_options

if TYPE_CHECKING:
    from control_plane._http.client import Client
    from control_plane.commands.watching import Line
    from control_plane.models import Execution, InvocationInfo

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)([smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_EPOCH = re.compile(r"\d{9,}(?:\.\d+)?")


class _Since(click.ParamType[float]):
    """A point in time: so long ago, or at a time. As epoch seconds."""

    name = "since"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the text."""
        text = str(value).strip()
        if _EPOCH.fullmatch(text):
            return float(text)
        if _DURATION.fullmatch(text):
            ago = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
            return max(0.0, time.time() - ago)
        try:
            # Without an offset it is local time.
            return max(0.0, datetime.fromisoformat(text).astimezone().timestamp())
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is neither a length of time (90s, 10m, 1h30m, 2d) nor a time "
                "(2026-11-25T15:00, with +02:00 or Z if it is not local)",
                param,
                ctx,
            )


@click.command(short_help="Print what a call has written.")
@click.argument("invocation_id")
@click.option(
    "--execution",
    metavar="N",
    help="The attempt's number or its exe-... id; the latest one by default.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on until the call has ended.")
@click.option("--tail", "-n", type=click.IntRange(min=0), help="So many lines before the end.")
@click.option(
    "--since",
    type=_Since(),
    metavar="DURATION|TIME",
    help="Leave out what is older: 10m, 1h30m, or a time such as 2026-11-25T15:00. Lines are "
    "copied in groups, so a few from just before may be shown.",
)
@json_option
@server_options
def logs(
    *,
    client: "Client",
    invocation_id: str,
    execution: str | None,
    follow: bool,
    tail: int | None,
    since: float | None,
    as_json: bool,
) -> None:
    """Print what a call has written to its standard output and standard error.

    That is the output of its latest attempt; with --follow, also of attempts that come after.
    """
    from control_plane.commands.watching import Line, LogReader, goes_on_without_us, watch

    info = client.find_invocation(invocation_id)
    chosen = _choose(info, execution)
    if chosen is None and not follow:
        remark(f"It has had no attempt yet: it is {info.phase}")
        return
    if chosen is not None and execution is None and chosen.attempt > 1 and not as_json:
        remark(f"Attempt {chosen.attempt}; --execution 1 is the first one")
    reader = LogReader(since=since, tail=tail)
    if chosen is not None and (not follow or execution is not None):
        _print_one(client, info, chosen, reader=reader, follow=follow, as_json=as_json)
        return
    readers = {} if chosen is None else {chosen.execution_id: reader}
    first = 1 if chosen is None else chosen.attempt
    with goes_on_without_us(client, invocation_id):
        attempt = first
        for event in watch(client, info.path, readers=readers, first_attempt=first):
            if isinstance(event, Line):
                if event.execution.attempt != attempt and not as_json:
                    remark(f"Attempt {event.execution.attempt}")
                attempt = event.execution.attempt
                _print(event, as_json=as_json)


def _print_one(
    client: "Client",
    info: "InvocationInfo",
    execution: "Execution",
    *,
    reader: "LogReader",
    follow: bool,
    as_json: bool,
) -> None:
    from control_plane.commands.watching import Line, goes_on_without_us

    with goes_on_without_us(client, info.invocation_id):
        while True:
            for text in reader.read(client, info.path, execution):
                _print(Line(execution, text), as_json=as_json)
            if not follow or reader.ended:
                return
            info = client.get_invocation(info.path, wait=0.5)
            execution = next(
                each for each in info.executions if each.execution_id == execution.execution_id
            )


def _print(line: "Line", *, as_json: bool) -> None:
    from control_plane.commands.watching import log_event

    click.echo(json.dumps(log_event(line), ensure_ascii=False) if as_json else line.text)


def _choose(info: "InvocationInfo", wanted: str | None) -> "Execution | None":
    from control_plane.commands.exits import CommandError, Exit

    if wanted is None:
        return info.executions[-1] if info.executions else None
    for each in info.executions:
        if wanted in (str(each.attempt), each.execution_id):
            return each
    numbers = ", ".join(str(each.attempt) for each in info.executions) or "none yet"
    raise CommandError(
        f"{info.invocation_id} has no execution {wanted}; there are: {numbers}", Exit.NOT_FOUND
    )


if TYPE_CHECKING:
    from control_plane.commands.watching import LogReader
