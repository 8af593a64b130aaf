"""Counts what one invocation asks of Postgres and of Temporal: no clock, so the same everywhere.

`python -m bench.transitions` also lists every statement, in order.
"""

import asyncio
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from bench.calls import client, deploy
from bench.figures import Line, Section
from bench.instant import InstantProvisioner
from core.temporal.client import connect_config
from runtime.logging import configure_logging
from standalone.options import StackOptions
from standalone.stack import running_stack

_COUNT: Final = 10
_TABLE: Final = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)")


class _Statements:
    """What SQLAlchemy sends while it is recorded."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.transactions = 0

    def _on_execute(self, _: object, __: object, statement: str, *___: object) -> None:
        self.sent.append(" ".join(statement.split()))

    def _on_commit(self, connection: Connection) -> None:
        # In autocommit, SQLAlchemy says so too, but nothing is sent.
        if connection.get_isolation_level() != "AUTOCOMMIT":
            self.transactions += 1

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record during the block."""
        event.listen(Engine, "before_cursor_execute", self._on_execute)
        event.listen(Engine, "commit", self._on_commit)
        try:
            yield
        finally:
            event.remove(Engine, "before_cursor_execute", self._on_execute)
            event.remove(Engine, "commit", self._on_commit)


def _short(statement: str) -> str:
    """Name a statement by its verb, its first table and whether it locks."""
    verb = statement.split(" ", 1)[0]
    table = _TABLE.search(statement)
    lock = re.search(r"FOR (?:NO KEY )?(?:UPDATE|SHARE|KEY SHARE)", statement)
    notify = " pg_notify" if "pg_notify" in statement else ""
    return (
        f"{verb} {table.group(1) if table else ''} {lock.group() if lock else ''}{notify}".strip()
    )


async def _count(folder: Path) -> tuple[_Statements, Counter[str]]:
    os.environ["SWEEP_INTERVAL_SECONDS"] = "0"
    statements, events = _Statements(), Counter[str]()
    options = StackOptions(data_folder=folder / "transitions", api_port=0, durable=False)
    async with (
        running_stack(options, provisioner=InstantProvisioner()) as stack,
        client(stack.api_url, stack.api_key.get_secret_value()) as http,
    ):
        function = await deploy(http, "noop")
        for _ in range(3):
            await function.until_terminated(await function.call())
        temporal = await Client.connect(**connect_config(stack.temporal))
        paths = []
        with statements.recorded():
            for _ in range(_COUNT):
                path = await function.call()
                paths.append(path)
                # Not by requests: their statements are not the invocation's.
                await temporal.get_workflow_handle(path.rpartition("/")[2]).result()
        for path in paths:
            handle = temporal.get_workflow_handle(path.rpartition("/")[2])
            async for entry in handle.fetch_history_events():
                events[EventType.Name(entry.event_type).removeprefix("EVENT_TYPE_")] += 1
    return statements, events


async def transitions(folder: Path, *, listed: bool = False) -> Section:
    """Count for ten invocations that succeed at once; figures are for one of them."""
    statements, events = await _count(folder)
    if listed:
        for statement in statements.sent[: len(statements.sent) // _COUNT + 1]:
            print(f"    {_short(statement)}")
        for name, number in events.items():
            print(f"    {name:<40} {number / _COUNT:g}")
    counted: dict[str, Any] = {
        "SQL statements": len(statements.sent),
        "transactions of several statements": statements.transactions,
        "events in Temporal's history": sum(events.values()),
        "workflow tasks": events["WORKFLOW_TASK_COMPLETED"],
        "activity tasks": events["ACTIVITY_TASK_COMPLETED"],
        "local activities (markers)": events["MARKER_RECORDED"],
        "timers": events["TIMER_STARTED"],
    }
    return Section(
        title="0 what one invocation asks of Postgres and Temporal",
        lines=[
            Line(name=name, unit="", value=number / _COUNT, n=_COUNT)
            for name, number in counted.items()
        ],
    )


async def _main() -> None:
    with tempfile.TemporaryDirectory(prefix="control-plane-bench-") as name:
        Path(name).chmod(0o711)
        section = await transitions(Path(name), listed=True)
    for entry in section.lines:
        print(f"{entry.name:<44} {entry.value:g}")


if __name__ == "__main__":
    configure_logging(level="ERROR")
    asyncio.run(_main())
