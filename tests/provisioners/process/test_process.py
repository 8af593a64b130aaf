"""The process provisioner: adoption, starts, other hosts, damage, and folders that go."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from core.states import Cause
from provisioners.base import (
    ProvisionerError,
    Running,
    Unknown,
    UnrecoverableProvisioningError,
)
from provisioners.conformance import Behaviour, NoBundles, until, wait_for_end, wait_for_line
from provisioners.process import ending
from provisioners.process.folder import WorkerFolder
from provisioners.process.identity import is_alive
from tests.support.provisioners.process_backend import (
    DEPLOYMENT,
    PYTHON,
    ProcessBackend,
    run,
    started,
)
from tests.support.provisioners.process_driver import driver


class TestDeathOfTheTemporalWorker:
    def test_a_worker_is_adopted(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path)
        request = backend.request(Behaviour.RUNS)
        with driver(backend, request=dataclasses.asdict(request)) as (process, answer):
            process.kill()
            process.wait()

        async def adopt() -> None:
            await backend.provisioner.start(DEPLOYMENT, NoBundles())
            worker = await backend.provisioner.provision(request)
            assert worker.state == json.loads(answer)["state"]
            await wait_for_line(backend.provisioner, worker, "ready")
            assert await backend.provisioner.observe(worker) == Running()
            ended = await backend.provisioner.terminate(request.execution_id, worker, grace=5)
            assert ended.exit_code == 0
            assert backend.starts(request.execution_id) == 1
            await backend.close()

        asyncio.run(adopt())

    async def test_a_worker_ends_at_its_deadline(self, process_backend: ProcessBackend) -> None:
        script = """
signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))
print('ready', flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.01)
"""
        request = process_backend.request_for(process_backend.project(script))
        provisioner = process_backend.provisioner
        worker = await provisioner.provision(request)
        await wait_for_line(provisioner, worker, "ready")

        with driver(process_backend, terminate=request.execution_id, grace=1) as (process, _):
            await wait_for_line(provisioner, worker, "asked")
            process.kill()
            process.wait()

        ended = await wait_for_end(provisioner, worker)
        assert ended.exit_code == 137

    async def test_two_processes_start_one(self, process_backend: ProcessBackend) -> None:
        request = process_backend.request(Behaviour.RUNS)
        order = dataclasses.asdict(request)

        def provision() -> Any:
            with driver(process_backend, request=order) as (_, answer):
                return json.loads(answer)["state"]

        first, second = await asyncio.gather(
            asyncio.to_thread(provision), asyncio.to_thread(provision)
        )

        assert first == second
        # Two starts would leave two marks before either program says that it is ready.
        provisioner = process_backend.provisioner
        worker = await provisioner.provision(request)
        assert worker.state == first
        await wait_for_line(provisioner, worker, "ready")
        assert process_backend.starts(request.execution_id) == 1


class TestStart:
    async def test_an_interpreter_line_that_leads_nowhere(
        self, process_backend: ProcessBackend, tmp_path: Path
    ) -> None:
        project = tmp_path / "project"
        project.mkdir()
        program = project / "run"
        program.write_text("#!/nowhere\n")
        program.chmod(0o755)
        (project / "control-plane.toml").write_text('command = ["./run"]')

        worker = await process_backend.provisioner.provision(
            process_backend.request_for(project.as_uri())
        )

        ended = await wait_for_end(process_backend.provisioner, worker)
        assert ended.exit_code == 127
        assert ended.detail == f"{program} cannot be run: No such file or directory"

    @pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
    async def test_a_shim_that_fails(self, tmp_path: Path, python: str) -> None:
        backend = ProcessBackend(tmp_path)
        backend.config = dataclasses.replace(backend.config, python=Path(python))
        provisioner = await backend.another()
        request = backend.request_for(backend.project(""))

        with pytest.raises(ProvisionerError, match="worker"):
            await provisioner.provision(request)

        # Nothing ran, so it is tried again, e.g. after a repair.
        backend.config = dataclasses.replace(backend.config, python=Path(PYTHON))
        repaired = await backend.another()
        worker = await repaired.provision(request)
        await wait_for_end(repaired, worker)
        assert backend.starts(request.execution_id) == 1
        backend.provisioner = repaired
        await backend.close()

    async def test_a_python_project_runs_by_its_own_environment(
        self, process_backend: ProcessBackend, tmp_path: Path
    ) -> None:
        project = tmp_path / "project"
        programs = project / ".venv" / "bin"
        programs.mkdir(parents=True)
        (project / "main.py").write_text("")
        python = programs / "python"
        python.write_text('#!/bin/sh\necho "$@"\ncommand -v python\n')
        python.chmod(0o755)

        _, lines = await run(process_backend, process_backend.request_for(project.as_uri()))

        [sdk] = process_backend.config.state_folder.glob("sdk-*")
        assert lines == [f"-I -u {sdk}/control_plane/runner/__main__.py", str(python)]
        assert [entry.name for entry in sdk.iterdir()] == ["control_plane"]
        assert (sdk / "control_plane" / "__init__.py").is_file()


class TestOtherHosts:
    async def test_a_worker_of_another_host_is_unknown(
        self, process_backend: ProcessBackend
    ) -> None:
        request = process_backend.request(Behaviour.RUNS)
        worker = await process_backend.provisioner.provision(request)
        elsewhere = dataclasses.replace(
            worker, state={**worker.state, "host": "elsewhere", "boot_id": "another"}
        )

        assert isinstance(await process_backend.provisioner.observe(elsewhere), Unknown)
        began = time.monotonic()
        observation = await process_backend.provisioner.wait(elsewhere, timeout=0.3)
        assert isinstance(observation, Unknown)
        assert time.monotonic() - began >= 0.3
        with pytest.raises(ProvisionerError, match="elsewhere"):
            await process_backend.provisioner.terminate(request.execution_id, elsewhere, grace=1)
        assert is_alive(started(process_backend, request).shim)

    async def test_a_worker_from_before_a_reboot_is_lost(
        self, process_backend: ProcessBackend
    ) -> None:
        request = process_backend.request(Behaviour.RUNS)
        worker = await process_backend.provisioner.provision(request)
        os.kill(started(process_backend, request).shim.pid, signal.SIGKILL)
        before = dataclasses.replace(worker, state={**worker.state, "boot_id": "another"})

        ended = await wait_for_end(process_backend.provisioner, before)

        assert ended.cause is Cause.WORKER_LOST


class TestDamage:
    async def test_a_deleted_folder_is_no_proof_of_the_end(
        self, process_backend: ProcessBackend
    ) -> None:
        request = process_backend.request(Behaviour.IGNORES_SIGTERM)
        provisioner = process_backend.provisioner
        worker = await provisioner.provision(request)
        await wait_for_line(provisioner, worker, "ready")
        pids = process_backend.processes_of(request.execution_id)
        shutil.rmtree(process_backend.worker_folder(request.execution_id))

        assert isinstance(await provisioner.observe(worker), Unknown)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Without its folder nobody knows of more than the shim, which may be gone sooner.

        async def are_gone() -> bool:
            return not process_backend.processes_of(request.execution_id)

        await until(are_gone, what="the processes are gone")

        ended = await provisioner.terminate(request.execution_id, worker, grace=1)
        assert ended.cause is Cause.WORKER_LOST

    @pytest.mark.parametrize("name", ["worker.json", "exit.json"])
    async def test_a_file_damaged_by_a_power_cut(
        self, process_backend: ProcessBackend, name: str
    ) -> None:
        request = process_backend.request(Behaviour.EXITS_WITH_3)
        worker, _ = await run(process_backend, request)
        folder = process_backend.worker_folder(request.execution_id)
        (folder / "exit.json").unlink()
        (folder / name).write_bytes(b"")

        await process_backend.provisioner.provision(request)

        ended = await wait_for_end(process_backend.provisioner, worker)
        assert ended.cause is Cause.WORKER_LOST
        assert process_backend.starts(request.execution_id) == 1

    async def test_a_state_folder_of_another_user_is_refused(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        backend = ProcessBackend(tmp_path)
        backend.config.state_folder.mkdir()
        os.chown(backend.config.state_folder, 12345, -1)

        with pytest.raises(UnrecoverableProvisioningError, match="another user"):
            await backend.provisioner.start(DEPLOYMENT, NoBundles())


class TestForget:
    async def test_a_folder_that_somebody_looks_at_is_deleted_when_he_is_done(
        self, process_backend: ProcessBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = process_backend.request(Behaviour.EXITS_WITH_3)
        worker, _ = await run(process_backend, request)
        await wait_for_end(process_backend.provisioner, worker)
        folder = process_backend.worker_folder(request.execution_id)
        lock = WorkerFolder(folder).try_lock()
        assert lock is not None
        monkeypatch.setattr(ending, "_IN_USE_SECONDS", 0.0)
        with pytest.raises(ProvisionerError, match="is still in use"):
            await process_backend.provisioner.forget(request.execution_id)
        assert folder.exists()

        monkeypatch.setattr(ending, "_IN_USE_SECONDS", 60.0)
        asyncio.get_running_loop().call_later(0.1, os.close, lock)
        await process_backend.provisioner.forget(request.execution_id)
        assert not folder.exists()

    async def test_a_running_worker_is_not_forgotten(self, process_backend: ProcessBackend) -> None:
        request = process_backend.request(Behaviour.RUNS)
        worker = await process_backend.provisioner.provision(request)

        with pytest.raises(ProvisionerError):
            await process_backend.provisioner.forget(request.execution_id)

        assert await process_backend.provisioner.observe(worker) == Running()

    async def test_read_only_folders_are_deleted(self, process_backend: ProcessBackend) -> None:
        script = "os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a/b', 0o500)"
        request = process_backend.request_for(process_backend.project(script))
        await run(process_backend, request)

        await process_backend.provisioner.forget(request.execution_id)

        workers = process_backend.workers
        assert [*workers.iterdir(), *(workers.parent / "trash").iterdir()] == []
