"""Files that a worker leaves: whatever they are, they hold up nobody and hide nothing."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from core.ids import ExecutionId
from provisioners.base import UnrecoverableProvisioningError
from provisioners.files import delete_tree
from provisioners.process.scratch import LONGEST_TEMPORARY
from tests.support.provisioners.process_backend import (
    DEPLOYMENT,
    ProcessBackend,
    run,
)


@pytest.fixture(params=["cold", "warm"])
def backend(request: pytest.FixtureRequest) -> ProcessBackend:
    """Workers that are started, and workers that are forked."""
    name = {"cold": "process_backend", "warm": "warm_backend"}[request.param]
    found: ProcessBackend = request.getfixturevalue(name)
    return found


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
        folders = (state, state / DEPLOYMENT / "code", link, link / "w" / ".." / DEPLOYMENT)
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
