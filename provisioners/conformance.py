"""What every provisioner must do. A provisioner's tests subclass `ProvisionerConformance`.

The subclass gives a fixture `backend`: an adapter that makes requests whose workers behave as
asked. Nothing in here knows how workers are made.

Provisioners in repositories of their own use it, too (docs/provisioners.md). It needs pytest and
pytest-asyncio, which the server itself does not: the extra `conformance` brings them.
"""

import asyncio
import inspect
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path

try:
    import pytest
except ImportError:
    raise ImportError(
        "The conformance suite needs pytest: install control-plane with its extra, "
        "control-plane[conformance]"
    ) from None

from core.bundles import BundleIsGoneError, BundleSource, StoredBundle
from core.ids import ExecutionId, VersionId
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    PreparedFunction,
    Provisioner,
    Running,
    UnrecoverableProvisioningError,
    WorkerRecord,
    WorkerRequest,
)


class Behaviour(Enum):
    """What a worker's program does."""

    EXITS_WITH_3 = "prints `one` and `two`, then ends with exit code 3"
    RUNS = "prints `ready`; at SIGTERM it prints `asked to stop` and goes on for 0.5 s"
    IGNORES_SIGTERM = (
        "prints `ready`; at SIGTERM it prints `asked to stop` and goes on for a minute"
    )
    SILENT = "prints nothing; ends when `release` is called"
    PARTIAL_LINE = "prints `whole`, then `partial` without a newline; ends when `release` is called"
    PRINTS_TOKEN = "prints the environment variable TOKEN"


class Backend(ABC):
    """Adapter between the suite and one provisioner."""

    provisioner: Provisioner

    @abstractmethod
    def function(self, behaviour: Behaviour) -> FunctionToPrepare:
        """A function whose workers behave so."""

    @abstractmethod
    def missing_function(self) -> FunctionToPrepare:
        """A function whose image does not exist."""

    @abstractmethod
    def request(self, behaviour: Behaviour) -> WorkerRequest:
        """A request for a new worker that behaves so."""

    @abstractmethod
    def starts(self, execution_id: ExecutionId) -> int:
        """How many times the worker's program has been started."""

    @abstractmethod
    def release(self, execution_id: ExecutionId) -> None:
        """Let a program end that waits for this."""

    @abstractmethod
    async def another(self) -> Provisioner:
        """A second provisioner over the same compute, as after a restart. Closed by the fixture."""


class NoBundles(BundleSource):
    """Where there are no code bundles: for `start`, as the suite deploys no code."""

    async def open(self, version_id: VersionId, digest: str) -> StoredBundle:
        """Find none."""
        raise BundleIsGoneError("there are no code bundles here")


def new_execution_id() -> ExecutionId:
    """Give an id that no execution has."""
    return ExecutionId(f"exe-{uuid.uuid4().hex}")


async def until(
    condition: Callable[[], Awaitable[bool]], *, what: str, timeout: float = 10
) -> None:
    """Wait until a condition holds; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        await asyncio.sleep(0.01)


async def wait_for_end(
    provisioner: Provisioner, worker: WorkerRecord, *, timeout: float = 10
) -> Exited:
    """Wait until a worker is gone; returns how it ended. Fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        observation = await provisioner.wait(worker, timeout=1)
        if isinstance(observation, Exited):
            return observation
        assert time.monotonic() < end, f"not ended within {timeout} s: {observation}"


async def wait_for_line(provisioner: Provisioner, worker: WorkerRecord, line: str) -> None:
    """Wait until a worker has printed a line."""

    async def printed() -> bool:
        return line in (await provisioner.read_logs(worker, offset="", ended=False)).lines

    await until(printed, what=f"the line {line!r}")


class ProvisionerConformance:
    """The suite."""

    def test_up_can_build_one(self, backend: Backend) -> None:
        """`control-plane up` gives every kind its data folder, and other processes give none."""
        signature = inspect.signature(type(backend.provisioner).from_environment)

        signature.bind()
        signature.bind(data_folder=Path("/data"))

    async def test_prepare_accepts_what_can_run(self, backend: Backend) -> None:
        prepared = await backend.provisioner.prepare(backend.function(Behaviour.RUNS))

        assert isinstance(prepared, PreparedFunction)

    async def test_prepare_refuses_what_does_not_exist(self, backend: Backend) -> None:
        with pytest.raises(UnrecoverableProvisioningError):
            await backend.provisioner.prepare(backend.missing_function())

    async def test_a_worker_gets_its_environment(self, backend: Backend) -> None:
        worker = await backend.provisioner.provision(backend.request(Behaviour.PRINTS_TOKEN))
        await wait_for_end(backend.provisioner, worker)

        page = await backend.provisioner.read_logs(worker, offset="", ended=True)
        assert page.lines == ["the token"]

    async def test_the_record_holds_no_secret(self, backend: Backend) -> None:
        worker = await backend.provisioner.provision(backend.request(Behaviour.PRINTS_TOKEN))

        assert "the token" not in repr(worker)

    async def test_provision_twice_starts_one(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)

        first = await backend.provisioner.provision(request)
        second = await backend.provisioner.provision(request)

        assert first == second
        await wait_for_line(backend.provisioner, first, "ready")
        assert backend.starts(request.execution_id) == 1

    async def test_concurrent_provisions_start_one(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)
        other = await backend.another()

        records = await asyncio.gather(
            *(provisioner.provision(request) for provisioner in (backend.provisioner, other) * 3)
        )

        assert all(record == records[0] for record in records)
        await wait_for_line(backend.provisioner, records[0], "ready")
        assert backend.starts(request.execution_id) == 1

    async def test_provision_after_a_cancelled_one_starts_one(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)
        interrupted = asyncio.create_task(backend.provisioner.provision(request))
        await asyncio.sleep(0)
        interrupted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await interrupted

        worker = await backend.provisioner.provision(request)

        await wait_for_line(backend.provisioner, worker, "ready")
        assert backend.starts(request.execution_id) == 1

    async def test_provision_after_the_end_starts_nothing(self, backend: Backend) -> None:
        request = backend.request(Behaviour.EXITS_WITH_3)
        worker = await backend.provisioner.provision(request)
        await wait_for_end(backend.provisioner, worker)

        again = await backend.provisioner.provision(request)

        observation = await backend.provisioner.observe(again)
        assert isinstance(observation, Exited)
        assert observation.exit_code == 3
        assert backend.starts(request.execution_id) == 1

    async def test_another_provisioner_adopts_the_worker(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        other = await backend.another()

        adopted = await other.provision(request)

        assert adopted == worker
        assert await other.observe(worker) == Running()
        await other.terminate(request.execution_id, worker, grace=5)
        assert isinstance(await backend.provisioner.observe(worker), Exited)
        assert backend.starts(request.execution_id) == 1

    async def test_observe_and_wait_tell_how_it_ended(self, backend: Backend) -> None:
        worker = await backend.provisioner.provision(backend.request(Behaviour.EXITS_WITH_3))

        ended = await wait_for_end(backend.provisioner, worker)

        assert ended.exit_code == 3
        assert ended.cause is None
        assert await backend.provisioner.observe(worker) == ended

    async def test_wait_ends_with_its_time_while_the_worker_runs(self, backend: Backend) -> None:
        request = backend.request(Behaviour.SILENT)
        worker = await backend.provisioner.provision(request)

        began = time.monotonic()
        observation = await backend.provisioner.wait(worker, timeout=0.7)

        assert observation == Running()
        assert 0.6 < time.monotonic() - began < 5

    async def test_wait_ends_within_two_seconds_of_the_end(self, backend: Backend) -> None:
        request = backend.request(Behaviour.SILENT)
        worker = await backend.provisioner.provision(request)
        waiting = asyncio.create_task(backend.provisioner.wait(worker, timeout=30))

        async def runs() -> bool:
            return backend.starts(request.execution_id) == 1

        await until(runs, what="the program runs")
        assert not waiting.done()
        backend.release(request.execution_id)

        async with asyncio.timeout(2):
            assert isinstance(await waiting, Exited)

    async def test_wait_ends_early_when_there_is_output(self, backend: Backend) -> None:
        worker = await backend.provisioner.provision(backend.request(Behaviour.RUNS))

        async with asyncio.timeout(5):
            assert await backend.provisioner.wait(worker, timeout=30) == Running()

        await wait_for_line(backend.provisioner, worker, "ready")

    async def test_terminate_asks_politely(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")

        began = time.monotonic()
        ended = await backend.provisioner.terminate(request.execution_id, worker, grace=20)

        assert ended.exit_code == 0
        assert time.monotonic() - began < 10
        page = await backend.provisioner.read_logs(worker, offset="", ended=True)
        assert page.lines == ["ready", "asked to stop"]

    async def test_terminate_forces_after_the_grace(self, backend: Backend) -> None:
        request = backend.request(Behaviour.IGNORES_SIGTERM)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")

        began = time.monotonic()
        ended = await backend.provisioner.terminate(request.execution_id, worker, grace=0.5)

        assert 0.5 <= time.monotonic() - began < 5
        assert ended.exit_code == 137

    async def test_terminate_twice_asks_once(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        other = await backend.another()

        ends = await asyncio.gather(
            backend.provisioner.terminate(request.execution_id, worker, grace=5),
            other.terminate(request.execution_id, worker, grace=5),
            other.terminate(request.execution_id, None, grace=5),
        )
        late = await backend.provisioner.terminate(request.execution_id, worker, grace=5)

        assert all(end == late for end in ends)
        page = await backend.provisioner.read_logs(worker, offset="", ended=True)
        assert page.lines == ["ready", "asked to stop"]

    async def test_a_later_terminate_does_not_prolong_the_grace(self, backend: Backend) -> None:
        request = backend.request(Behaviour.IGNORES_SIGTERM)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        first = asyncio.create_task(
            backend.provisioner.terminate(request.execution_id, worker, grace=1)
        )
        other = await backend.another()

        began = time.monotonic()
        await wait_for_line(backend.provisioner, worker, "asked to stop")
        await other.terminate(request.execution_id, worker, grace=60)

        assert time.monotonic() - began < 8
        await first

    async def test_nothing_starts_after_terminate(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)

        ended = await backend.provisioner.terminate(request.execution_id, None, grace=5)
        worker = await backend.provisioner.provision(request)

        assert isinstance(ended, Exited)
        assert isinstance(await backend.provisioner.observe(worker), Exited)
        assert isinstance(await backend.provisioner.wait(worker, timeout=5), Exited)
        assert backend.starts(request.execution_id) == 0

    async def test_terminate_races_provision(self, backend: Backend) -> None:
        request = backend.request(Behaviour.RUNS)
        other = await backend.another()

        worker, ended = await asyncio.gather(
            backend.provisioner.provision(request),
            other.terminate(request.execution_id, None, grace=0.2),
        )

        assert isinstance(ended, Exited)
        assert isinstance(await backend.provisioner.observe(worker), Exited)
        assert backend.starts(request.execution_id) <= 1

    async def test_terminate_accepts_a_worker_that_never_was(self, backend: Backend) -> None:
        assert isinstance(
            await backend.provisioner.terminate(new_execution_id(), None, grace=1), Exited
        )

    async def test_logs_hold_whole_lines_while_the_worker_runs(self, backend: Backend) -> None:
        request = backend.request(Behaviour.PARTIAL_LINE)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "whole")

        running = await backend.provisioner.read_logs(worker, offset="", ended=False)
        nothing_new = await backend.provisioner.read_logs(
            worker, offset=running.next_offset, ended=False
        )
        backend.release(request.execution_id)
        await wait_for_end(backend.provisioner, worker)
        rest = await backend.provisioner.read_logs(worker, offset=running.next_offset, ended=True)
        end = await backend.provisioner.read_logs(worker, offset=rest.next_offset, ended=True)

        assert running.lines == ["whole"]
        assert nothing_new.lines == []
        assert nothing_new.next_offset == running.next_offset
        assert rest.lines == ["partial"]
        assert end.lines == []
        assert end.next_offset == rest.next_offset

    async def test_logs_outlive_the_worker(self, backend: Backend) -> None:
        worker = await backend.provisioner.provision(backend.request(Behaviour.EXITS_WITH_3))
        await wait_for_end(backend.provisioner, worker)

        page = await (await backend.another()).read_logs(worker, offset="", ended=True)

        assert page.lines == ["one", "two"]

    async def test_list_names_workers_until_they_are_forgotten(self, backend: Backend) -> None:
        running = backend.request(Behaviour.RUNS)
        await backend.provisioner.provision(running)
        ended = backend.request(Behaviour.EXITS_WITH_3)
        await wait_for_end(backend.provisioner, await backend.provisioner.provision(ended))
        assert running.execution_id in await backend.provisioner.list_workers()

        await backend.provisioner.forget(ended.execution_id)
        await backend.provisioner.forget(ended.execution_id)

        listed = await backend.provisioner.list_workers()
        assert running.execution_id in listed
        assert ended.execution_id not in listed
