"""What a function could try against the server, other projects, and the record of its own call."""

import asyncio
import dataclasses
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from core.ids import ExecutionId, VersionId
from core.states import Cause
from provisioners.base import Exited, UnrecoverableProvisioningError, WorkerRequest
from provisioners.conformance import NoBundles, wait_for_end, wait_for_line
from provisioners.files import delete_tree
from provisioners.process.confinement.users import UidRange, WorkerUsers
from provisioners.process.programs import kernel
from provisioners.process.scratch import LONGEST_TEMPORARY
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


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # Bound by a short name: that of the worker's folder is too long for one.
    short = Path(f"/proc/self/fd/{os.open(path.parent, os.O_PATH)}") / path.name
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short))


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)


class TestFiles:
    @pytest.mark.parametrize("name", ["output.log", "worker.json", "exit.json", "terminate.json"])
    @pytest.mark.parametrize(
        "make", [_fifo, _socket, _link, _device, _folder, _huge], ids=lambda make: make.__name__
    )
    async def test_nothing_in_a_worker_s_folder_holds_the_server_up(
        self, process_backend: ProcessBackend, name: str, make: Callable[[Path], None]
    ) -> None:
        """Where a worker is the server's own user, it can put whatever it likes there."""
        backend, provisioner = process_backend, process_backend.provisioner
        request = backend.request_for(backend.project("print('ran')"))
        worker, _ = await run(backend, request)
        path = backend.worker_folder(request.execution_id) / name
        path.unlink(missing_ok=True)
        make(path)

        async with asyncio.timeout(60):
            await provisioner.observe(worker)
            page = await provisioner.read_logs(worker, offset="", ended=True)
            await provisioner.terminate(request.execution_id, worker, grace=0)
            assert not [line for line in page.lines if "root:" in line]
            assert len(page.lines) <= 1 or name == "output.log"
            await provisioner.forget(request.execution_id)
        assert await provisioner.list_workers() == []

    async def test_as_many_of_them_as_there_are_threads_stop_nothing(
        self, process_backend: ProcessBackend
    ) -> None:
        backend, provisioner = process_backend, process_backend.provisioner
        image = backend.project("print('ran')")
        workers = []
        for _ in range(12):
            request = backend.request_for(image)
            worker, _ = await run(backend, request)
            path = backend.worker_folder(request.execution_id) / "output.log"
            path.unlink()
            os.mkfifo(path)
            workers.append(worker)
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(provisioner.read_logs(worker, offset="", ended=True) for worker in workers)
            )
            _, lines = await run(backend, backend.request_for(image))
        assert lines == ["ran"]

    async def test_what_a_worker_leaves_is_deleted_whatever_it_is(
        self, backend: ProcessBackend
    ) -> None:
        outside = backend.folder / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        script = f"""
os.symlink({str(outside)!r}, "link")
os.mkfifo("fifo")
os.mkdir("closed")
open("closed/file", "w").close()
os.chmod("closed", 0)
for depth in range(3000):
    os.mkdir("deep")
    os.chdir("deep")
"""
        request = backend.request_for(backend.project(script))
        worker, lines = await run(backend, request)
        assert lines == []

        await backend.provisioner.forget(worker.execution_id)

        assert (outside / "kept").exists()
        assert not backend.scratch(request.execution_id).path.exists()
        trash = backend.workers.parent / "trash"
        assert list(trash.iterdir()) == []

    async def test_a_file_outside_is_not_deleted_in_place_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "kept").touch()
        (tmp_path / "link").symlink_to(tmp_path / "outside")
        delete_tree(tmp_path / "link")
        assert (tmp_path / "outside" / "kept").exists()

    async def test_a_server_s_folder_is_no_project(self, process_backend: ProcessBackend) -> None:
        request = process_backend.request_for(process_backend.project("print('ran')"))
        await run(process_backend, request)
        state = process_backend.config.state_folder
        link = process_backend.folder / "link"
        link.symlink_to(state)
        folders = (state, state / DEPLOYMENT / "code", link, link / "w" / ".." / "users")
        for folder in folders:
            (folder / "main.py").touch()
            function = process_backend.function_for(f"file://{folder}")
            with pytest.raises(UnrecoverableProvisioningError, match="the control plane's own"):
                await process_backend.provisioner.prepare(function)


class TestTemporaryFolder:
    async def test_a_socket_has_room_in_it(self, backend: ProcessBackend) -> None:
        script = """
import socket, tempfile
socket.socket(socket.AF_UNIX).bind(os.environ["TMPDIR"] + "/" + "s" * 40)
print(len(os.environ["TMPDIR"]) <= 60, os.listdir(tempfile.gettempdir()))
"""
        _, lines = await run(backend, backend.request_for(backend.project(script)))

        assert lines == [f"True ['{'s' * 40}']"]
        assert LONGEST_TEMPORARY <= 60

    async def test_a_link_of_another_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        backend = ProcessBackend(tmp_path / ("long" * 20))
        backend.folder.mkdir()
        execution_id = ExecutionId("exe-" + "1" * 32)
        first = backend.scratch(execution_id).short
        assert first.parent.is_symlink() or len(str(tmp_path)) > 40
        if not first.parent.is_symlink():
            return
        first.parent.unlink()
        first.parent.symlink_to("/etc")

        second = backend.scratch(execution_id).short

        assert second != first
        assert second.parent.readlink() == backend.config.state_folder / "w"


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
