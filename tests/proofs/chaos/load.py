"""The callers: they start tasks, cancel some, follow each to its end, and look on the way."""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.proofs.chaos.client import Client, UnexpectedAnswerError
from tests.proofs.chaos.tasks import FUNCTIONS, Task

Json = dict[str, Any]

PROJECT = "storm"
_WAIT_SECONDS = 5
_AT_ONCE = 40
_PROBES_PER_SECOND = 0.5


@dataclass(kw_only=True)
class Accepted:
    """A task that the control plane has taken."""

    task: Task
    invocation_id: str
    posted_at: float
    """On the clock of `time.monotonic`: when its first request was sent."""
    over_at: float | None = None
    """When it was first seen TERMINATED."""


@dataclass(kw_only=True)
class Load:
    """What the callers of one control plane do, and what they have seen.

    Args:
        client: leads to its API.
        tasks: what to call.
        marks: the folder with what the functions record.
        probes: what to call beside it, to see how soon calls succeed again.
    """

    client: Client
    tasks: Iterator[Task]
    probes: Iterator[Task]
    marks: Path
    accepted: list[Accepted] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    """What was seen and must not be."""
    acknowledged: int = 0
    """Updates that were looked for right after their acknowledgement."""

    _stopped: bool = False

    def stop(self) -> None:
        """Start nothing more."""
        self._stopped = True

    async def deploy(self, folder: Path) -> None:
        """Register the project's one version, and wait until it is ready."""
        await self.client.call("PUT", f"/projects/{PROJECT}", accept=(200, 409))
        body = {"default_docker_image": folder.as_uri(), "functions": list(FUNCTIONS)}
        _, version = await self.client.call("POST", f"/projects/{PROJECT}/versions", body=body)
        self._functions = f"/projects/{PROJECT}/versions/{version['version_id']}/functions"

    async def run(self, *, per_second: float) -> None:
        """Start tasks until `stop` is called, and follow each to its end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start(self.tasks, group, per_second, at_once=_AT_ONCE))
            # Never held up by what else is under way.
            group.create_task(self._start(self.probes, group, _PROBES_PER_SECOND, at_once=1000))

    async def _start(
        self, tasks: Iterator[Task], group: asyncio.TaskGroup, per_second: float, *, at_once: int
    ) -> None:
        places = asyncio.Semaphore(at_once)
        while not self._stopped:
            await places.acquire()
            following = group.create_task(self._run_one(next(tasks)))
            following.add_done_callback(lambda _: places.release())
            await asyncio.sleep(1 / per_second)

    def over(self) -> int:
        """Count those that were seen to have ended."""
        return sum(one.over_at is not None for one in self.accepted)

    def succeeded_since(self, at: float) -> bool:
        """Say whether a call that was made after this time has succeeded."""
        return self.first_success_since(at) is not None

    def first_success_since(self, at: float) -> float | None:
        """Give when the first of the calls made after a time has succeeded.

        Only those count that neither fail nor work for long by their script.
        """
        return min(
            (
                one.over_at
                for one in self.accepted
                if one.posted_at >= at and one.over_at is not None and one.task.is_plain
            ),
            default=None,
        )

    async def _run_one(self, task: Task) -> None:
        try:
            await self._follow(task)
        except UnexpectedAnswerError as error:
            self.breaches.append(f"{task.key}: an unexpected answer: {error}")

    async def _follow(self, task: Task) -> None:
        path = f"{self._functions}/{task.function}/invocations"
        posted_at = time.monotonic()
        body = {"input": json.dumps([task.argument])}
        _, seen = await self.client.call("POST", path, body=body, key=task.key)
        path = f"{path}/{seen['invocation_id']}"
        accepted = Accepted(task=task, invocation_id=seen["invocation_id"], posted_at=posted_at)
        self.accepted.append(accepted)
        if task.cancel_after is not None:
            await asyncio.sleep(task.cancel_after)
            # 409: it was over. What that means for this task is judged at the end.
            await self.client.call("PUT", f"{path}/cancel", accept=(200, 409))
        while seen["invocation_status"] != "TERMINATED":
            acknowledged = self._last_acknowledged(accepted.invocation_id)
            seen = await self.client.get(f"{path}?wait={_WAIT_SECONDS}")
            self._check_acknowledged(task, acknowledged, seen)
        accepted.over_at = time.monotonic()
        if not self._worker_is_gone(accepted.invocation_id):
            self.breaches.append(f"{task.key}: TERMINATED while its worker was alive")

    def _last_acknowledged(self, invocation_id: str) -> Json | None:
        """Give the newest update whose acknowledgement a function has recorded."""
        last = None
        with suppress(FileNotFoundError):
            for line in (self.marks / invocation_id).read_text().splitlines():
                mark: Json = json.loads(line)
                if mark["what"] == "acknowledged":
                    last = mark
        return last

    def _check_acknowledged(self, task: Task, acknowledged: Json | None, seen: Json) -> None:
        if acknowledged is None:
            return
        self.acknowledged += 1
        for execution in seen["executions"]:
            if execution["execution_id"] == acknowledged["execution"]:
                output = json.loads(execution["output"] or "{}")
                if output.get("step", 0) >= acknowledged["step"]:
                    return
        self.breaches.append(f"{task.key}: the acknowledged update {acknowledged} is not there")

    def _worker_is_gone(self, invocation_id: str) -> bool:
        """Try to take the lock that a worker holds until its end."""
        try:
            descriptor = os.open(self.marks / f"{invocation_id}.lock", os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True
