"""The command `control-plane logs`."""

import re
import sys
import time
from datetime import datetime

import click

from control_plane._console.exits import CommandError, Exit
from control_plane._console.foreign import json_of, log_lines, raw_option
from control_plane._console.output import echo, has_colours, json_option, remark
from control_plane._console.server import server_options
from control_plane._console.watching import goes_on_without_us, log_event
from control_plane._http.client import Client
from control_plane._http.follower import Follower, Line, Output
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
@raw_option
@server_options
def logs(
    *,
    client: Client,
    invocation_id: str,
    execution: str | None,
    follow: bool,
    tail: int | None,
    since: float | None,
    as_json: bool,
) -> None:
    """Print what a call has written to its standard output and standard error.

    That is the output of its latest attempt; with --follow, also of attempts that come after.
    Colours are kept on a terminal; other escape sequences and controls are shown as text, and a
    carriage return begins a new line. --raw prints lines as they are.
    """
    info = client.find_invocation(invocation_id)
    chosen = _choose(info, execution)
    if chosen is None and not follow:
        remark(f"It has had no attempt yet: it is {info.phase}")
        return
    if chosen is not None and execution is None and chosen.attempt > 1 and not as_json:
        remark(f"Attempt {chosen.attempt}; --execution 1 is the first one")
    if chosen is None:
        # What there is to see is all new, and all there is.
        output, attempt = Output(), 1
    else:
        is_alone = execution is not None or not follow
        output = Output(
            execution_id=chosen.execution_id if is_alone else None,
            first_attempt=chosen.attempt,
            since=since,
            tail=tail,
        )
        attempt = chosen.attempt
    colours = has_colours(sys.stdout)
    follower = Follower(client.exchange, info.path, output=output, known=info)
    with goes_on_without_us(client, invocation_id):
        for event in client.iterate(follower.events(to_end=follow)):
            if isinstance(event, Line):
                if event.attempt not in (None, attempt):
                    attempt = event.attempt
                    if not as_json:
                        remark(f"Attempt {attempt}")
                if as_json:
                    echo(json_of(log_event(event)))
                    continue
                for line in log_lines(event.text, colours=colours):
                    echo(line)


def _choose(info: InvocationInfo, wanted: str | None) -> Execution | None:
    if wanted is None:
        return info.executions[-1] if info.executions else None
    for each in info.executions:
        if wanted in (str(each.attempt), each.execution_id):
            return each
    numbers = ", ".join(str(each.attempt) for each in info.executions) or "none yet"
    raise CommandError(
        f"{info.invocation_id} has no execution {wanted}; there are: {numbers}", Exit.NOT_FOUND
    )
