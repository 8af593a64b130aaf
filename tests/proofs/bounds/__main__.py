"""Loads a whole stack with what it must bear, and shows that memory stays bounded.

`make prove-bounds` runs it. API and Temporal worker are processes of their own, as in production.
"""

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from core.settings import RegistrySettings
from tests.proofs.bounds.connections import Attacker
from tests.proofs.bounds.memory import MIB, Peaks
from tests.support.harness import function_spec
from tests.support.servers import TEMPLATE_DATABASE, Servers, connect, fresh_database
from tests.support.stack.caller import Version
from tests.support.stack.processes import Json, wait_for
from tests.support.stack.stack import Stack, environment_for

BOUNDS = {"api": 512 * MIB, "temporal worker": 512 * MIB, "runner": 96 * MIB, "shim": 32 * MIB}
"""What a process may take at most, under any of the loads."""
QUEUE_BOUND = 600 * MIB
"""API and Temporal worker together, while ten thousand invocations wait."""
LOG_LIMIT = 16 * MIB
_LONG_SECONDS = 1800

Facts = dict[str, Any]


class _DevStack(Stack):
    provisioner = "dev"


@dataclass(frozen=True)
class Scene:
    """A stack, and what the loads need of it."""

    stack: Stack
    version: Version
    database: psycopg.Connection

    def connect(self, load: Callable[[Attacker], Any]) -> Facts:
        attacker = Attacker(self.stack, self.version.path)
        facts: Facts = {"answers": asyncio.run(load(attacker))}
        if attacker.slowest_health:
            facts["slowest health check, s"] = round(attacker.slowest_health, 2)
        return facts

    def print_much(self, piece: str, *, mib: int) -> Facts:
        """A function prints; others are called meanwhile."""
        began = time.monotonic()
        greetings = 0
        disk = 0
        call = self.version.invoke("print_much", {"mib": mib, "piece": piece})
        while True:
            seen = call.get()
            if seen["invocation_status"] == "TERMINATED":
                break
            assert self.version.invoke("greet").result() == "Hello, world!"
            greetings += 1
            disk = max(disk, _size_of(self.stack.state_folder))
        assert seen["phase"] == "SUCCEEDED", seen
        assert disk < LOG_LIMIT + MIB
        lines, last = self._log(seen["executions"][0]["execution_id"])
        assert last.startswith("[control-plane: output is cut here"), last
        return {
            "MiB printed": mib,
            "s": round(time.monotonic() - began, 1),
            "other calls meanwhile": greetings,
            "MiB on disk at most": round(disk / MIB, 1),
            "lines kept": lines,
        }

    def _log(self, execution_id: str) -> tuple[int, str]:
        row = self.database.execute(
            "SELECT next_line, lines[array_length(lines, 1)] FROM log_chunks "
            "WHERE execution_id = %s ORDER BY first_line DESC LIMIT 1",
            [execution_id],
        ).fetchone()
        assert row is not None
        return row

    def yield_much(self, *, count: int, size: int) -> Facts:
        """A generator yields more than can be reported."""
        updates = self._updates()
        began = time.monotonic()
        call = self.version.invoke("yield_much", {"count": count, "size": size})
        seen = call.until_over(seconds=_LONG_SECONDS)
        took = time.monotonic() - began
        assert seen["phase"] == "SUCCEEDED", seen
        assert json.loads(seen["executions"][0]["output"]) == "the last"
        return {
            "values": count,
            "s": round(took, 1),
            "values per s": round(count / took),
            "updates of the row": self._updates() - updates,
        }

    def _updates(self) -> int:
        row = self.database.execute(
            "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'executions'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def queue(self, *, count: int) -> Facts:
        """Calls of a function with one slot, which stays taken."""
        path = f"{self.version.path}/functions/one/invocations"

        def post(_: int) -> float:
            began = time.monotonic()
            self.stack.caller.call("POST", path, json={"input": "x" * 100})
            return time.monotonic() - began

        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            took = list(pool.map(post, range(count)))
        facts: Facts = {"accepted per s": round(count / (time.monotonic() - began), 1)}
        facts["first tenth, POST p50 s"] = round(statistics.median(took[: count // 10]), 3)
        facts["last tenth, POST p50 s"] = round(statistics.median(took[-count // 10 :]), 3)
        wait_for(self._asked, lambda asked: asked >= count - 1, seconds=_LONG_SECONDS)
        facts["all wait after, s"] = round(time.monotonic() - began, 1)
        facts["reads of 10, s"] = _timed(
            lambda: [self.stack.caller.get(f"{path}?max_results=50") for _ in range(10)]
        )
        facts["another function's call, s"] = _timed(self._play_another)
        facts["a freed slot is used after, s"] = self._pass_on(20)
        return facts | self._delete()

    def _asked(self) -> int:
        row = self.database.execute(
            "SELECT count(*) FROM invocations WHERE phase = 'QUEUED' AND queue_reason <> 'new'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def _play_another(self) -> None:
        call = self.version.invoke("other")
        self._play(call.until(_has_worker, seconds=60), call.path)

    def _running(self) -> str | None:
        row = self.database.execute(
            "SELECT e.invocation_id, e.id FROM executions e "
            "JOIN functions f ON f.id = e.function_id "
            "WHERE f.name = 'one' AND e.worker_status = 'RUNNING' AND e.finished_at IS NULL"
        ).fetchone()
        if row is None:
            return None
        path = f"{self.version.path}/functions/one/invocations"
        return f"{path}/{row[0]}/executions/{row[1]}"

    def _pass_on(self, count: int) -> Facts:
        """Play workers to their end; returns how long the slot was free between two of them."""
        for _ in range(count):
            running = wait_for(self._running, seconds=60)
            assert running is not None
            self._report(running)
        gaps = self.database.execute(
            "SELECT extract(epoch FROM created_at - freed)::float FROM (SELECT e.created_at, "
            "lag(e.terminated_at) OVER (ORDER BY e.created_at) AS freed FROM executions e "
            "JOIN functions f ON f.id = e.function_id WHERE f.name = 'one') AS neighbours "
            "WHERE freed IS NOT NULL ORDER BY 1"
        ).fetchall()
        times = [round(gap, 3) for (gap,) in gaps]
        return {"p50": times[len(times) // 2], "max": times[-1]}

    def _play(self, seen: Json, path: str) -> None:
        self._report(f"{path}/executions/{seen['executions'][0]['execution_id']}")

    def _report(self, execution: str) -> None:
        self.stack.caller.call("PUT", f"{execution}/start")
        done = {"outcome": "SUCCEEDED", "final_output": "null"}
        self.stack.caller.call("PUT", f"{execution}/finish", json=done)

    def _delete(self) -> Facts:
        """End all that wait, and the worker that runs."""
        began = time.monotonic()
        self.stack.caller.call("DELETE", "/projects/shop")

        def projects() -> list[Json]:
            running = self._running()
            if running is not None:
                self._report(running)
            found: list[Json] = self.stack.caller.get("/projects")["projects"]
            return found

        wait_for(projects, lambda found: not found, seconds=_LONG_SECONDS)
        return {"project deleted after, s": round(time.monotonic() - began, 1)}


def _has_worker(seen: Json) -> bool:
    executions = seen["executions"]
    return bool(executions) and executions[0]["worker_status"] == "RUNNING"


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return round(time.monotonic() - began, 3)


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _loads(queued: int) -> dict[str, tuple[type[Stack], Callable[[Scene], Facts]]]:
    def connect(load: Callable[[Attacker], Any]) -> tuple[type[Stack], Callable[[Scene], Facts]]:
        return Stack, lambda scene: scene.connect(load)

    return {
        "large bodies": connect(Attacker.large_bodies),
        "a million problems": connect(Attacker.wrong_functions),
        "endless bodies": connect(Attacker.endless_bodies),
        "endless headers": connect(Attacker.endless_heads),
        "hostile JSON": connect(Attacker.hostile_json),
        "slow clients": connect(Attacker.slow_clients),
        "1 GiB of lines": (Stack, lambda scene: scene.print_much("y" * 79 + "\n", mib=1024)),
        "1 GiB, no newline": (Stack, lambda scene: scene.print_much("y", mib=1024)),
        "1 GiB of newlines": (Stack, lambda scene: scene.print_much("\n", mib=1024)),
        "a million small yields": (
            Stack,
            lambda scene: scene.yield_much(count=1_000_000, size=10),
        ),
        "20,000 large yields": (
            Stack,
            lambda scene: scene.yield_much(count=20_000, size=249_000),
        ),
        f"{queued} queued": (_DevStack, lambda scene: scene.queue(count=queued)),
    }


def _run(
    name: str,
    kind: type[Stack],
    load: Callable[[Scene], Facts],
    *,
    folder: Path,
    environment: dict[str, str],
    settings: RegistrySettings,
) -> list[str]:
    """Run one load on a stack of its own; returns the breaches."""
    stack = kind(folder, environment)
    with ExitStack() as exits:
        exits.callback(stack.close)
        database = exits.enter_context(connect(settings, database=settings.postgres_db))
        names = ("greet", "print_much", "yield_much", "other")
        version = stack.caller.deploy(
            Path(__file__).with_name("project"),
            *(function_spec(function, timeout=_LONG_SECONDS) for function in names),
            function_spec("one", concurrency=1, timeout=_LONG_SECONDS),
        )
        servers = {"api": stack.api.pid, "temporal worker": stack.temporal_worker.pid}
        with Peaks(servers, workers=folder) as peaks:
            facts = load(Scene(stack, version, database))
        print(f"{name}: {facts}")
        breaches = []
        for process, peak in sorted(peaks.peaks.items()):
            before = peaks.before.get(process)
            was = "" if before is None else f"{before / MIB:>6.0f} ->"
            print(f"    {process:<16}{was:>9} {peak / MIB:>5.0f} MiB of {BOUNDS[process] // MIB}")
            if peak > BOUNDS[process]:
                breaches.append(f"{name}: {process} took {peak / MIB:.0f} MiB")
        together = peaks.peaks["api"] + peaks.peaks["temporal worker"]
        if kind is _DevStack and together > QUEUE_BOUND:
            breaches.append(f"{name}: API and Temporal worker took {together / MIB:.0f} MiB")
        sys.stdout.flush()
        return breaches


def main(only: str, queued: int) -> int:
    """Run the loads; returns the exit status."""
    # So that servers and folders go, also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    servers = Servers()
    breaches: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="control-plane-bounds-"))
    try:
        addresses = servers.start()
        for number, (name, (kind, load)) in enumerate(_loads(queued).items()):
            if only not in name:
                continue
            with fresh_database(addresses, template=TEMPLATE_DATABASE) as settings:
                breaches += _run(
                    name,
                    kind,
                    load,
                    folder=folder / str(number),
                    # Not the short heartbeats of tests that kill.
                    environment={
                        **environment_for(settings, addresses),
                        "TEMPORAL_HEARTBEAT_SECONDS": "10",
                    },
                    settings=settings,
                )
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(breaches) or "All within their bounds.")
    return 1 if breaches else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.bounds", description=__doc__)
    parser.add_argument("--only", default="", help="only loads with this text in their name")
    parser.add_argument("--queued", type=int, default=10_000, help="invocations that wait")
    arguments = parser.parse_args()
    sys.exit(main(arguments.only, arguments.queued))
