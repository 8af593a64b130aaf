"""What a function could try against the server, other projects, and the record of its own call."""

import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.ids import VersionId
from core.states import Cause
from provisioners.base import Exited, UnrecoverableProvisioningError, WorkerRequest
from provisioners.conformance import NoBundles, wait_for_end, wait_for_line
from provisioners.process.confinement.users import UidRange, WorkerUsers
from provisioners.process.programs import kernel
from tests.support.provisioners.process_backend import (
    DEPLOYMENT,
    ProcessBackend,
    process_ids,
    run,
    started,
)
from tests.support.provisioners.warm_backend import WarmBackend

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs workers as other users")

ATTEMPTS = """
import errno, signal as s
def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        print(what.__name__, errno.errorcode[error.errno])
    else:
        print(what.__name__, "DONE")
def read(path):
    open(path, "rb").read(1)
def write(path):
    open(path, "ab").close()
"""


@pytest.fixture(params=["cold", "warm"])
def backend(request: pytest.FixtureRequest) -> ProcessBackend:
    """Workers that are started, and workers that are forked."""
    name = {"cold": "process_backend", "warm": "warm_backend"}[request.param]
    found: ProcessBackend = request.getfixturevalue(name)
    return found


@pytest.fixture
async def small_backend(tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    """A backend with room for one project."""
    backend = ProcessBackend(tmp_path)
    backend.config = dataclasses.replace(
        backend.config, worker_uids=UidRange(first=61000, last=61000)
    )
    backend.provisioner = await backend.another()
    yield backend
    await backend.close()


def of_project(request: WorkerRequest, name: str) -> WorkerRequest:
    version_id = VersionId(f"ver-{name.encode().hex():0>32}")
    return dataclasses.replace(request, project_name=name, version_id=version_id)


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def ready(backend: ProcessBackend, script: str) -> WorkerRequest:
    """Start a worker, and wait until it says that it is ready."""
    request = backend.request_for(backend.project(script))
    worker = await backend.provisioner.provision(request)
    await wait_for_line(backend.provisioner, worker, "ready")
    return request


@as_root
class TestOtherUsers:
    async def test_a_worker_can_do_nothing_that_root_can(self, backend: ProcessBackend) -> None:
        script = """
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
print(len(set(status["Uid"].split())), status["Groups"].split() == [])
print([status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")])
print(os.getuid() == os.getgid() >= 50000)
"""
        _, lines = await run(backend, backend.request_for(backend.project(script)))

        assert lines == ["1 True", str(["0" * 16] * 4), "True"]

    async def test_the_server_and_its_files_are_closed(self, backend: ProcessBackend) -> None:
        secret = backend.folder / "secret"
        secret.write_text("key")
        secret.chmod(0o600)
        state = backend.config.state_folder
        server = os.getpid()
        script = (
            ATTEMPTS
            + f"""
attempt(read, "/proc/{server}/environ")
attempt(read, "/proc/{server}/mem")
attempt(os.listdir, "/proc/{server}/fd")
attempt(os.kill, {server}, s.SIGTERM)
attempt(os.kill, os.getppid() if "main" not in sys.modules else {server}, s.SIGKILL)
attempt(read, {str(secret)!r})
attempt(os.listdir, {str(state)!r})
attempt(os.listdir, {str(state / DEPLOYMENT / "workers")!r})
attempt(os.listdir, {str(state / "users")!r})
attempt(os.listdir, {str(state / "w")!r})
attempt(write, {str(state / "w" / "x")!r})
attempt(write, {str(state / DEPLOYMENT / "x")!r})
attempt(os.setuid, 0)
print(sorted(name for name in os.listdir("/proc/self/fd") if os.path.realpath(
    "/proc/self/fd/" + name).startswith({str(state)!r}) and int(name) > 4))
"""
        )
        _, lines = await run(backend, backend.request_for(backend.project(script)))

        assert [line for line in lines if line.endswith("DONE")] == []
        assert len(lines) == 14
        assert lines[-1] == "[]"

    async def test_the_shim_and_what_it_writes_are_closed(self, backend: ProcessBackend) -> None:
        workers = backend.workers
        script = (
            ATTEMPTS
            + f"""
folder = {str(workers)!r} + "/" + os.environ["EXECUTION"]
for name in ("output.log", "worker.json", "exit.json", "terminate.json", "lock"):
    attempt(read, folder + "/" + name)
    attempt(write, folder + "/" + name)
    attempt(os.remove, folder + "/" + name)
    attempt(os.mkfifo, folder + "/" + name)
attempt(os.rename, folder, folder + "x")
for pid in os.listdir("/proc"):
    if pid.isdigit() and os.stat("/proc/" + pid).st_uid == 0:
        attempt(os.kill, int(pid), s.SIGKILL)
        attempt(read, "/proc/" + pid + "/environ")
"""
        )
        request = backend.request_for(backend.project(script))
        request.environment["EXECUTION"] = request.execution_id

        worker, lines = await run(backend, request)

        assert [line for line in lines if line.endswith("DONE")] == []
        assert len(lines) > 21
        assert await backend.provisioner.observe(worker) == Exited(
            exit_code=0, detail="exit code 0"
        )

    async def test_projects_are_users_of_their_own(self, backend: ProcessBackend) -> None:
        script = "open('own', 'w').close()\nprint('ready', flush=True)\nwait_for_release()"
        requests = [
            of_project(backend.request_for(backend.project(script)), name)
            for name in ("one", "one", "other", "/..")
        ]
        for request in requests:
            worker = await backend.provisioner.provision(request)
            await wait_for_line(backend.provisioner, worker, "ready")

        users = [user_of(started(backend, request).program.pid) for request in requests]
        assert users[0] == users[1]
        assert len(set(users)) == 3
        assert 0 not in users
        shims = [user_of(started(backend, request).shim.pid) for request in requests]
        assert shims == [0] * 4

        victim = backend.scratch(requests[0].execution_id)
        pid = started(backend, requests[0]).program.pid
        script = (
            ATTEMPTS
            + f"""
attempt(os.listdir, {str(victim.path)!r})
attempt(read, {str(victim.work / "own")!r})
attempt(write, {str(victim.work / "own")!r})
attempt(os.kill, {pid}, s.SIGKILL)
attempt(read, "/proc/{pid}/environ")
attempt(os.listdir, "/proc/{pid}/cwd/")
"""
        )
        attacker = of_project(backend.request_for(backend.project(script)), "attacker")
        _, lines = await run(backend, attacker)
        assert len(lines) == 6
        assert [line for line in lines if line.endswith("DONE")] == []

    async def test_a_project_keeps_its_user(self, tmp_path: Path) -> None:
        uids = UidRange(first=50000, last=50004)
        names = [f"deployment/{number}" for number in range(5)]
        first = WorkerUsers(tmp_path, uids)
        found = [first.of(name).uid for name in names]
        assert sorted(found) == list(range(50000, 50005))
        assert [WorkerUsers(tmp_path, uids).of(name).uid for name in reversed(names)] == found[::-1]

    async def test_no_two_projects_share_a_user_when_the_range_is_used_up(
        self, small_backend: ProcessBackend
    ) -> None:
        image = small_backend.project("print('ran')")
        request = small_backend.request_for(image)
        assert (await run(small_backend, request))[1] == ["ran"]

        other = of_project(small_backend.request_for(image), "other")
        with pytest.raises(UnrecoverableProvisioningError, match="PROCESS_WORKER_UIDS"):
            await small_backend.provisioner.provision(other)
        assert small_backend.starts(other.execution_id) == 0

    async def test_workers_are_root_only_if_the_operator_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        backend = ProcessBackend(tmp_path, workers_as_root=True)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        assert "workers_are_root" in capsys.readouterr().out

        _, lines = await run(backend, backend.request_for(backend.project("print(os.getuid())")))

        assert lines == ["0"]
        await backend.close()


class TestNothingIsLeft:
    @pytest.mark.parametrize("use_cgroups", [True, False])
    @pytest.mark.parametrize("warm", [False, True])
    async def test_a_daemon_that_hides_is_found(
        self, tmp_path: Path, *, use_cgroups: bool, warm: bool
    ) -> None:
        backend: ProcessBackend
        if warm:
            backend = WarmBackend(tmp_path, use_cgroups=use_cgroups)
        else:
            backend = ProcessBackend(tmp_path, use_cgroups=use_cgroups)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        # Twice forked, in sessions of their own, without the environment, deaf to SIGTERM; then the
        # parent is killed, of which it is a warm worker's right.
        script = """
import subprocess
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(write, b"x")
        os.execve("/bin/sleep", ["sleep", "3600.25"], {})
    os._exit(0)
os.read(read, 1)
print("ready", flush=True)
try:
    os.kill(os.getppid(), signal.SIGKILL)
except PermissionError:
    pass
time.sleep(60)
"""
        image = backend.project(script)
        request = backend.request_for(image)
        if not warm and os.geteuid() != 0:
            pytest.skip("a worker of the same user may kill its shim")
        worker = await backend.provisioner.provision(request)
        await wait_for_line(backend.provisioner, worker, "ready")

        ended = await backend.provisioner.terminate(request.execution_id, worker, grace=0.1)

        assert ended.cause is None or ended.cause is Cause.WORKER_LOST
        assert [pid for pid in process_ids() if _arguments(pid) == b"sleep\0003600.25\0"] == []
        await backend.close()

    async def test_a_reaper_that_is_killed_ends_its_worker(self, warm_backend: WarmBackend) -> None:
        request = await ready(
            warm_backend,
            "print('ready', flush=True)\nwait_for_release()\nos.kill(os.getppid(), 9)\n"
            "time.sleep(60)",
        )
        warm_backend.release(request.execution_id)
        worker = await warm_backend.provisioner.provision(request)

        ended = await wait_for_end(warm_backend.provisioner, worker, timeout=60)

        assert ended.exit_code == 137
        assert warm_backend.processes_of(request.execution_id) == []

    async def test_a_stopped_reaper_keeps_nothing(self, warm_backend: WarmBackend) -> None:
        request = await ready(
            warm_backend,
            "os.kill(os.getppid(), signal.SIGSTOP)\nprint('ready', flush=True)\ntime.sleep(60)",
        )
        ended = await warm_backend.provisioner.terminate(request.execution_id, None, grace=0.1)
        assert ended.exit_code is not None
        assert warm_backend.processes_of(request.execution_id) == []

    async def test_a_killed_keeper_leaves_its_workers_to_their_shims(
        self, warm_backend: WarmBackend
    ) -> None:
        request = await ready(
            warm_backend, "print('ready', flush=True)\nwait_for_release()\nsys.exit(3)"
        )
        found = started(warm_backend, request)
        keeper = kernel.parent_of(found.shim.pid)
        assert b"keeper.py" in _arguments(keeper)

        os.kill(keeper, signal.SIGKILL)
        warm_backend.release(request.execution_id)

        worker = await warm_backend.provisioner.provision(request)
        ended = await wait_for_end(warm_backend.provisioner, worker, timeout=60)
        assert ended.exit_code == 3


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
