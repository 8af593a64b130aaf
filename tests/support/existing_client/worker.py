"""The worker program of existing clients, as far as the API sees it, with a test as its hands."""

import json
from collections.abc import Callable
from typing import Any

from core.ids import ExecutionId
from tests.support.existing_client.connection import Connection, function_path
from tests.support.existing_client.reading import (
    FunctionStatus,
    InvocationInfo,
    Outcome,
    WorkerStatus,
)
from tests.support.harness import ControlPlane, eventually
from tests.support.scripted_provisioner import ScriptedWorker

SHORT = 3
"""A timeout in seconds that a test waits for, and within which a busy machine starts a worker."""


class Worker:
    """One worker that the scripted provisioner made."""

    def __init__(self, connection: Connection, compute: ScriptedWorker) -> None:
        self._connection = connection
        self.compute = compute
        # What this program is told: the variables of the later generation of the API.
        given = compute.request.environment
        project, version, function, invocation, execution = (
            given[f"MULTINODE_{name}"]
            for name in (
                "PROJECT_NAME",
                "VERSION_ID",
                "FUNCTION_NAME",
                "INVOCATION_ID",
                "EXECUTION_ID",
            )
        )
        path = function_path(project, version, function)
        self.path = f"{path}/invocations/{invocation}/executions/{execution}"

    async def start(self) -> tuple[list[Any], dict[str, Any]]:
        """Say that it has started; returns the arguments."""
        told = await self._connection.get_execution(self.path)
        await self._connection.start_execution(self.path)
        args, kwargs = json.loads(told.input)
        return args, kwargs

    async def update(self, output: str) -> None:
        await self._connection.update_execution(self.path, output)

    async def finish(
        self, outcome: Outcome, *, output: str | None = None, error: str | None = None
    ) -> None:
        """Report the outcome; the worker stays until `end`."""
        await self._connection.finish_execution(self.path, outcome, output=output, error=error)

    def end(self) -> None:
        self.compute.end()

    async def fail(self, *, output: str | None = None, error: str) -> None:
        """Start, fail, go."""
        await self.start()
        await self.finish(Outcome.FAILED, output=output, error=error)
        self.end()

    async def run(self, function: Callable[..., Any]) -> None:
        """Call the function and report what it gives; the worker stays until `end`."""
        args, kwargs = await self.start()
        await self.finish(Outcome.SUCCEEDED, output=json.dumps(function(*args, **kwargs)))


async def worker_of(
    plane: ControlPlane, connection: Connection, invocation: str, *, attempt: int = 1
) -> Worker:
    """Wait for the worker of an attempt at an invocation."""

    def runs(info: InvocationInfo) -> bool:
        return (
            len(info.executions) >= attempt
            and info.executions[attempt - 1].worker_status is WorkerStatus.RUNNING
        )

    info = await eventually(lambda: connection.get_invocation(invocation), runs)
    execution_id = ExecutionId(info.executions[attempt - 1].execution_id)
    return Worker(connection, plane.provisioner.workers[execution_id])


async def until_ready(connection: Connection, project: str) -> None:
    """Wait until the functions of the newest version are prepared: that takes of a timeout."""
    await eventually(
        lambda: connection.get_version(project, "latest"),
        lambda info: all(f.function_status is FunctionStatus.READY for f in info.functions),
    )
