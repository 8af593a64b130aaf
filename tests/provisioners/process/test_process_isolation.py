"""The process provisioner: limits, environment, what a program can see."""

import os
import signal
from pathlib import Path

import pytest

from core.states import Cause
from provisioners.base import (
    Exited,
    ResourceSpec,
    Running,
)
from provisioners.conformance import Behaviour, NoBundles, wait_for_line
from provisioners.process.cgroups import find_cgroups
from tests.support.provisioners.process_backend import (
    DEPLOYMENT,
    PYTHON,
    ProcessBackend,
    arguments_of,
    run,
    started,
)


@pytest.fixture(params=["cold", "warm"])
def backend(request: pytest.FixtureRequest) -> ProcessBackend:
    """Workers that are started, and workers that are forked."""
    name = {"cold": "process_backend", "warm": "warm_backend"}[request.param]
    found: ProcessBackend = request.getfixturevalue(name)
    return found


class TestLimits:
    async def test_out_of_memory(self, backend: ProcessBackend) -> None:
        enforced = find_cgroups("control-plane-test").enforces("memory")
        spec = ResourceSpec(virtual_cpus=1, memory_gbs=0.0625)
        request = backend.request_for(
            backend.project("print(len(bytearray(200 * 2**20)))"), spec=spec
        )

        worker, lines = await run(backend, request)

        ended = await backend.provisioner.observe(worker)
        assert isinstance(ended, Exited)
        if enforced:
            assert lines == []
            assert ended.cause is Cause.OUT_OF_MEMORY
            assert ended.exit_code == 137
        else:
            assert lines[-1] == "MemoryError"
            assert ended.exit_code == 1

    async def test_memory_without_cgroups(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path, use_cgroups=False)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        spec = ResourceSpec(virtual_cpus=1, memory_gbs=0.0625)

        _, lines = await run(
            backend,
            backend.request_for(backend.project("print(len(bytearray(200 * 2**20)))"), spec=spec),
        )

        assert lines[-1] == "MemoryError"
        await backend.close()

    async def test_limits_are_set_and_removed(self, backend: ProcessBackend) -> None:
        spec = ResourceSpec(virtual_cpus=0.5, memory_gbs=0.25)
        image = backend.request(Behaviour.RUNS).docker_image
        request = backend.request_for(image, spec=spec)
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")
        running = started(backend, request)
        if not running.cgroups:
            pytest.skip("this machine has no writable cgroups")

        settings = {
            file.name: file.read_text().strip()
            for cgroup in running.cgroups
            for file in cgroup.iterdir()
            if file.name
            in (
                "memory.limit_in_bytes",
                "memory.max",
                "cpu.cfs_quota_us",
                "cpu.max",
                "cgroup.procs",
            )
        }

        # A warm worker's reaper is with it.
        assert str(running.program.pid) in settings.pop("cgroup.procs").split()
        assert sorted(settings.values()) in (
            [str(2**28), "50000"],
            ["50000", str(2**28)],
            [str(2**28), "50000 100000"],
        )
        await backend.provisioner.terminate(request.execution_id, worker, grace=5)
        assert [cgroup for cgroup in running.cgroups if cgroup.exists()] == []

    async def test_start_removes_left_over_cgroups(self, process_backend: ProcessBackend) -> None:
        request = process_backend.request(Behaviour.RUNS)
        worker = await process_backend.provisioner.provision(request)
        running = started(process_backend, request)
        if not running.cgroups:
            pytest.skip("this machine has no writable cgroups")
        left_over = [cgroup.with_name("exe-" + "f" * 32) for cgroup in running.cgroups]
        for cgroup in left_over:
            cgroup.mkdir()

        await process_backend.another()

        assert [cgroup for cgroup in left_over if cgroup.exists()] == []
        assert await process_backend.provisioner.observe(worker) == Running()

    async def test_a_fork_bomb_ends(self, backend: ProcessBackend) -> None:
        script = """
print('ready', flush=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
"""
        if not find_cgroups("control-plane-test").enforces("pids"):
            pytest.skip("this machine has no writable cgroups")
        request = backend.request_for(backend.project(script))
        provisioner = backend.provisioner
        worker = await provisioner.provision(request)
        await wait_for_line(provisioner, worker, "ready")

        await provisioner.terminate(request.execution_id, worker, grace=0.1)

        assert backend.processes_of(request.execution_id) == []


class TestIsolation:
    async def test_the_environment_is_the_allowed_list(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_SERVER", "s")
        monkeypatch.setenv("PASSED", "p")
        monkeypatch.setenv("TZ", "UTC")
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        for name in ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        backend = ProcessBackend(tmp_path, passed_environment=("PASSED", "NOT_SET"))
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        # /proc holds it as passed; Python adds LC_CTYPE to its own copy.
        script = "sys.stdout.write(open('/proc/self/environ').read().replace(chr(0), chr(10)))"
        request = backend.request_for(backend.project(script), environment={"TOKEN": "a\nb=c"})

        _, lines = await run(backend, request)

        scratch = backend.scratch(request.execution_id).path
        assert sorted(lines) == sorted(
            [
                # The interpreter may be where another user finds none.
                "PATH=/usr/bin:/bin" + (f":{Path(PYTHON).parent}" if os.geteuid() == 0 else ""),
                "TZ=UTC",
                "PASSED=p",
                "TOKEN=a",
                "b=c",
                f"HOME={scratch}/home",
                f"TMPDIR={backend.scratch(request.execution_id).temporary}",
                f"CONTROL_PLANE_PROJECT_FOLDER={tmp_path}/project-1",
            ]
        )
        await backend.close()

    async def test_the_program_stands_alone(self, backend: ProcessBackend) -> None:
        script = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
print(os.getcwd() == STATE + "/work", os.getsid(0) == os.getpid(), status["NoNewPrivs"].strip())
print(sorted(os.listdir("/proc/self/fd"))[:3], os.readlink("/proc/self/fd/0"))
print([name for name in os.listdir("/proc/self/fd") if "lock" in os.path.realpath(
    "/proc/self/fd/" + name)])
ignored = {n for n in range(1, 65) if int(status["SigIgn"], 16) >> (n - 1) & 1}
print(int(status["SigBlk"], 16), sorted(ignored & {int(n) for n in signal.valid_signals()}))

"""
        _, lines = await run(backend, backend.request_for(backend.project(script)))

        assert lines[:3] == ["True True 1", "['0', '1', '2'] /dev/null", "[]"]
        # Python ignores these two itself.
        assert lines[3] == f"0 [{int(signal.SIGPIPE)}, {int(signal.SIGXFSZ)}]"

    async def test_the_token_is_neither_on_disk_nor_in_arguments(
        self, backend: ProcessBackend
    ) -> None:
        secret = b"s3cr3t-of-this-execution"
        image = backend.request(Behaviour.RUNS).docker_image
        request = backend.request_for(image, environment={"KEY": secret.decode()})
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")

        # The shim's environment is closed to a test of the same user.
        found = started(backend, request)
        pids = {found.shim.pid, *backend.processes_of(request.execution_id)}
        files = [path for path in backend.config.state_folder.rglob("*") if path.is_file()]

        # A warm worker has a reaper.
        assert len(pids) == 2 + found.warm
        assert len(files) >= 4
        assert not [pid for pid in pids if secret in arguments_of(pid)]
        assert not [path for path in files if secret in path.read_bytes()]

    async def test_folders_are_private(self, backend: ProcessBackend) -> None:
        request = backend.request(Behaviour.EXITS_WITH_3)
        await run(backend, request)

        folder = backend.worker_folder(request.execution_id)
        scratch = backend.scratch(request.execution_id)
        private = (folder, scratch.path, scratch.work, scratch.home)
        assert {path.stat().st_mode & 0o777 for path in private} == {0o700}
        assert (folder / "output.log").stat().st_mode & 0o777 == 0o600
