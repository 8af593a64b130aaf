"""The process provisioner: killed programs and shims, and the end that is asked for."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.states import Cause
from provisioners.base import (
    Exited,
)
from provisioners.conformance import Behaviour, NoBundles, until, wait_for_end, wait_for_line
from tests.support.provisioners.process_backend import (
    DEPLOYMENT,
    ProcessBackend,
    process_ids,
    run,
    started,
)
from tests.support.provisioners.warm_backend import WarmBackend

# A child, a daemon that has left session and parents behind, and its child.
FAMILY = """
def descend(depth):
    if os.fork():
        return
    if depth == 1:
        os.setsid()
    if depth < 3:
        descend(depth + 1)
        if depth == 1:
            os._exit(0)
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with open(STATE + f"/family-{depth}", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
    os._exit(0)
descend(0)
while not all(os.path.exists(STATE + f"/family-{depth}") for depth in (0, 2, 3)):
    time.sleep(0.01)
print('ready', flush=True)
"""


@pytest.fixture(
    params=[
        (ProcessBackend, True),
        (ProcessBackend, False),
        (WarmBackend, True),
        (WarmBackend, False),
    ],
    ids=["cgroups", "no-cgroups", "warm", "warm-no-cgroups"],
)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    """With limits by cgroups, where this machine has them, and without; started cold and warm."""
    kind, use_cgroups = request.param
    backend: ProcessBackend = kind(tmp_path, use_cgroups=use_cgroups)
    await backend.provisioner.start(DEPLOYMENT, NoBundles())
    yield backend
    await backend.close()


class TestKills:
    async def test_a_killed_program_is_noticed(self, backend: ProcessBackend) -> None:
        request = backend.request(Behaviour.RUNS)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")

        os.kill(started(backend, request).program.pid, signal.SIGKILL)

        ended = await wait_for_end(backend.provisioner, worker)
        assert ended == Exited(exit_code=137, detail="killed by signal 9 (SIGKILL)")

    async def test_a_killed_shim_takes_all_with_it(self, backend: ProcessBackend) -> None:
        request = backend.request_for(backend.project(FAMILY + "time.sleep(60)"))
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        found = started(backend, request)
        # The shim's environment is closed to a test of the same user. A warm worker has a reaper.
        processes = {found.shim.pid, *backend.processes_of(request.execution_id)}
        assert len(processes) == 5 + found.warm

        os.kill(found.shim.pid, signal.SIGKILL)

        ended = await wait_for_end(backend.provisioner, worker)
        assert ended.cause is Cause.WORKER_LOST
        assert backend.processes_of(request.execution_id) == []
        assert await backend.provisioner.provision(request) == worker
        assert await backend.provisioner.observe(worker) == ended
        assert backend.starts(request.execution_id) == 1

    async def test_what_a_program_leaves_behind_is_killed(self, backend: ProcessBackend) -> None:
        request = backend.request_for(backend.project(FAMILY + "sys.exit(0)"))

        worker, lines = await run(backend, request)

        assert lines == ["ready"]
        assert await backend.provisioner.observe(worker) == Exited(
            exit_code=0, detail="exit code 0"
        )
        assert backend.processes_of(request.execution_id) == []

    async def test_terminate_ends_descendants_that_ignore_it(self, backend: ProcessBackend) -> None:
        request = backend.request_for(backend.project(FAMILY + "time.sleep(60)"))
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")

        ended = await backend.provisioner.terminate(request.execution_id, worker, grace=30)

        assert ended == Exited(exit_code=143, detail="killed by signal 15 (SIGTERM)")
        assert backend.processes_of(request.execution_id) == []

    async def test_terminate_ends_a_stopped_program(self, backend: ProcessBackend) -> None:
        request = backend.request(Behaviour.RUNS)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        os.kill(started(backend, request).program.pid, signal.SIGSTOP)

        ended = await backend.provisioner.terminate(request.execution_id, worker, grace=0.2)

        assert ended.exit_code == 137

    async def test_terminate_ends_a_worker_whose_shim_hangs(
        self, backend: ProcessBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("provisioners.process.provisioner.KILL_MARGIN_SECONDS", 0.3)
        request = backend.request(Behaviour.RUNS)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        os.kill(started(backend, request).shim.pid, signal.SIGSTOP)

        ended = await backend.provisioner.terminate(request.execution_id, worker, grace=0.2)

        assert ended.cause is Cause.WORKER_LOST
        assert backend.processes_of(request.execution_id) == []

    async def test_sigterm_goes_to_the_group_once(self, process_backend: ProcessBackend) -> None:
        script = """
child = os.fork()
def stop(*_):
    os.write(1, b"child asked\\n" if not child else b"parent asked\\n")
signal.signal(signal.SIGTERM, stop)
if child:
    os.write(1, b"ready\\n")
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.01)
"""
        request = process_backend.request_for(process_backend.project(script))
        provisioner = process_backend.provisioner
        worker = await provisioner.provision(request)
        await wait_for_line(provisioner, worker, "ready")

        await provisioner.terminate(request.execution_id, worker, grace=0.5)

        page = await provisioner.read_logs(worker, offset="", ended=True)
        assert sorted(page.lines) == ["child asked", "parent asked", "ready"]

    async def test_no_zombie_is_left(self, process_backend: ProcessBackend) -> None:
        request = process_backend.request(Behaviour.EXITS_WITH_3)
        await run(process_backend, request)
        shim = started(process_backend, request).shim

        async def reaped() -> bool:
            return shim.pid not in process_ids()

        await until(reaped, what="the shim is reaped")
