"""The concurrency limit holds while workers are killed, from what workers and registry record.

`make prove-limit` runs it with 500 invocations, prints what it measured, and asks for the time in
which a freed slot is used again. That time is only asked for there: it needs an idle machine.
"""

import json
import logging
import os
import random
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import class_row

from core.settings import RegistrySettings
from provisioners.process.identity import open_pidfd, send
from tests.support.harness import function_spec
from tests.support.intervals import most_at_once
from tests.support.servers import connect
from tests.support.stack import limited_worker
from tests.support.stack.caller import Version
from tests.support.stack.stack import Stack

log = logging.getLogger(__name__)

LIMIT = 5
DOOMS = ("before its start", "while it runs")
PROOF = int(os.environ.get("CONTROL_PLANE_PROVE_LIMIT", "0"))
"""Invocations of the full proof; 0 for the short form without times."""
COUNT = PROOF or 40
SLOT_IS_REUSED_WITHIN_SECONDS = 0.3


@dataclass(frozen=True)
class Execution:
    """A row of the registry."""

    invocation_id: str
    execution_id: str
    attempt: int
    outcome: str | None
    invoked_at: datetime
    created_at: datetime
    terminated_at: datetime


@dataclass(frozen=True)
class Killer:
    """Kills workers with SIGKILL as they ask for it, and notes when."""

    stack: Stack
    marks: Path

    def kill_until(self, is_over: Callable[[], bool], *, seconds: float) -> dict[str, float]:
        """Kill who waits for it until all is over; returns the time of each kill."""
        killed: dict[str, float] = {}
        end = time.monotonic() + seconds
        asked = time.monotonic()
        with self.marks.open() as lines:
            while time.monotonic() < end:
                for line in lines:
                    step, _, execution_id = json.loads(line)
                    if step == "doomed":
                        killed[execution_id] = self._kill(execution_id)
                if time.monotonic() - asked > 0.5:
                    asked = time.monotonic()
                    if is_over():
                        return killed
                time.sleep(0.005)
        raise AssertionError(f"not over within {seconds} s")

    def _kill(self, execution_id: str) -> float:
        pidfd = open_pidfd(self.stack.started(execution_id).program)
        assert pidfd is not None, "a doomed worker waits for its end"
        try:
            send(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        return time.monotonic()


def overtaken(executions: list[Execution], row: Execution) -> int:
    """Count older invocations that had no execution yet when this first one was made."""
    return sum(
        other.attempt == 1
        and other.invocation_id < row.invocation_id
        and other.created_at > row.created_at
        for other in executions
    )


def reuse_gaps(executions: list[Execution]) -> list[float]:
    """Give the seconds from the end of an execution to the next one's creation in its slot.

    Only for slots that were freed while an invocation that had not run yet waited for one.
    """
    first = [row for row in executions if row.attempt == 1]
    ended = deque(sorted(row.terminated_at for row in executions))
    gaps = []
    for row in sorted(executions, key=lambda row: row.created_at)[LIMIT:]:
        freed = ended.popleft()
        if any(other.invoked_at < freed < other.created_at for other in first):
            gaps.append((row.created_at - freed).total_seconds())
    return gaps


def executions_in(database: psycopg.Connection, function: str) -> list[Execution]:
    with database.cursor(row_factory=class_row(Execution)) as cursor:
        cursor.execute(
            """
            SELECT i.id AS invocation_id, e.id AS execution_id, e.attempt, e.outcome,
                   i.created_at AS invoked_at, e.created_at, e.terminated_at
            FROM executions e
            JOIN invocations i ON i.id = e.invocation_id
            JOIN functions f ON f.id = i.function_id
            WHERE f.name = %s
            ORDER BY e.created_at
            """,
            [function],
        )
        return cursor.fetchall()


def run_all(
    version: Version, killer: Killer, database: psycopg.Connection, *, retries: int, seed: int
) -> dict[str, float]:
    """Invoke the function, kill workers, wait until all is over; returns the time of each kill."""
    chance = random.Random(seed)  # noqa: S311 - a plan that can be repeated, no secret

    def invoke_all() -> None:
        for _ in range(COUNT):
            dooms = [chance.choice(DOOMS) if chance.random() < 0.3 else None for _ in attempts]
            seconds = round(chance.uniform(0.01, 0.1), 3)
            task = {"marks": str(killer.marks), "seconds": seconds, "doom": dooms}
            version.invoke_text("limited", json.dumps(task))

    def is_over() -> bool:
        if not invoked.done():
            return False
        invoked.result()
        query = "SELECT count(*) FROM invocations WHERE status <> 'TERMINATED'"
        row = database.execute(query).fetchone()
        return row is not None and row[0] == 0

    attempts = range(retries + 1)
    with ThreadPoolExecutor(1) as pool:
        invoked = pool.submit(invoke_all)
        return killer.kill_until(is_over, seconds=1500 if PROOF else 200)


@pytest.mark.timeout(1800 if PROOF else 300)
@pytest.mark.parametrize("retries", [0, 2])
def test_never_more_workers_than_the_limit_whoever_is_killed(
    own_stack: Stack,
    registry_settings: RegistrySettings,
    tmp_path: Path,
    retries: int,
) -> None:
    """INV-11 to INV-13: at most five at once, in order of arrival, and all end."""
    folder = tmp_path / "project"
    folder.mkdir()
    program = Path(limited_worker.__file__)
    command = [sys.executable, "-I", "-S", str(program)]
    (folder / "control-plane.toml").write_text(f"command = {json.dumps(command)}\n")
    marks = tmp_path / "marks"
    marks.touch()
    marks.chmod(0o666)
    spec = function_spec("limited", concurrency=LIMIT, retries=retries, timeout=3600)
    version = own_stack.caller.deploy(folder, spec)
    with connect(registry_settings, database=registry_settings.postgres_db) as database:
        began = time.monotonic()
        killer = Killer(own_stack, marks)
        killed = run_all(version, killer, database, retries=retries, seed=retries)
        took = time.monotonic() - began
        executions = executions_in(database, "limited")

    # All have ended, and as they should: without a kill a success, else another attempt.
    last = {row.invocation_id: row for row in executions}
    assert len(last) == COUNT
    assert killed
    for row in executions:
        assert (row.outcome is None) is (row.execution_id in killed), row
        assert row.outcome in {None, "SUCCEEDED"}
    for row in last.values():
        assert row.outcome == "SUCCEEDED" or row.attempt == retries + 1
    # What the workers say: nobody but a killed one has begun without an end.
    steps = [json.loads(line) for line in marks.read_text().splitlines()]
    begun = {execution_id: at for step, at, execution_id in steps if step == "started"}
    done = {execution_id: at for step, at, execution_id in steps if step == "ended"}
    assert begun.keys() == {row.execution_id for row in executions}
    ends = done | killed
    assert most_at_once([(at, ends[execution_id]) for execution_id, at in begun.items()]) <= LIMIT
    # What the registry says.
    kept = [(row.created_at.timestamp(), row.terminated_at.timestamp()) for row in executions]
    assert most_at_once(kept) == LIMIT
    # In order of arrival: one may come before an older one only if both had a slot free for them.
    first = [row for row in executions if row.attempt == 1]
    assert max(overtaken(executions, row) for row in first) < LIMIT

    gaps = sorted(reuse_gaps(executions))
    figures = {
        "invocations": COUNT,
        "retries": retries,
        "executions": len(executions),
        "killed": len(killed),
        "seconds": round(took, 1),
        "out of order": sum(overtaken(executions, row) > 0 for row in first),
        "load": os.getloadavg()[0],
    }
    if len(gaps) > 1:
        cuts = statistics.quantiles(gaps, n=100)
        figures |= {
            "slots reused": len(gaps),
            "gap p50": round(cuts[49], 3),
            "gap p99": round(cuts[98], 3),
            "gap max": round(gaps[-1], 3),
        }
    log.warning("%s", figures)
    if PROOF:
        # Not the slowest of all: on two cores the workers and this test take the time that the
        # servers need.
        assert cuts[98] <= SLOT_IS_REUSED_WITHIN_SECONDS
