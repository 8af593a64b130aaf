"""Warm parents: when they are used, what of them workers see, and how many there are."""

import dataclasses
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from core.ids import VersionId
from provisioners.conformance import Behaviour, NoBundles, wait_for_end, wait_for_line
from provisioners.process.warm.parents import WarmLimits
from tests.support.provisioners.process_backend import DEPLOYMENT, process_ids, run, started
from tests.support.provisioners.warm_backend import WarmBackend
from tests.support.provisioners.warm_parents import (
    cold,
    no_parents,
    parent_processes,
    settled,
)


def memory_of(pid: int) -> bytes:
    """What a process can read of its own memory."""
    content = b""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, permissions, *_ = line.split()
            if permissions.startswith("rw"):
                start, end = (int(address, 16) for address in addresses.split("-"))
                memory.seek(start)
                with suppress(OSError):
                    content += memory.read(end - start)
    return content


@asynccontextmanager
async def with_limits(folder: Path, limits: WarmLimits) -> AsyncIterator[WarmBackend]:
    backend = WarmBackend(folder, limits=limits)
    await backend.provisioner.start(DEPLOYMENT, NoBundles())
    yield backend
    await backend.close()


class TestUse:
    async def test_the_second_worker_is_warm(self, warm_backend: WarmBackend) -> None:
        image = warm_backend.project("print('ran')")
        first, second = (warm_backend.request_for(image) for _ in range(2))

        assert await cold(warm_backend, first) == ["ran"]
        assert await settled(warm_backend, first)
        assert await cold(warm_backend, second) == ["ran"]

        assert not started(warm_backend, first).warm
        assert started(warm_backend, second).warm
        # The cold worker and the parent.
        assert (warm_backend.folder / "project-1" / "imports").read_text() == "xx"

    async def test_a_project_that_does_not_ask(self, warm_backend: WarmBackend) -> None:
        request = warm_backend.request_for(
            warm_backend.module("def function(): print('ran')", warm=0)
        )

        assert await cold(warm_backend, request) == ["ran"]

        assert warm_backend.warm_first.warm_parents().count() == 0

    async def test_code_that_has_changed_is_imported_anew(self, warm_backend: WarmBackend) -> None:
        image = warm_backend.module("def function(): print('old')")
        requests = [warm_backend.request_for(image) for _ in range(3)]
        _, old = await run(warm_backend, requests[0])
        (warm_backend.folder / "project-1" / "main.py").write_text("def function(): print('newer')")

        assert await cold(warm_backend, requests[1]) == ["newer"]
        _, new = await run(warm_backend, requests[2])

        assert (old, new) == (["old"], ["newer"])
        assert [started(warm_backend, request).warm for request in requests] == [True, False, True]

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (
                "import threading as t\nt.Thread(target=t.Event().wait, daemon=True).start()\n",
                "1 thread started by the import would be missing in a forked process",
            ),
            ("import os\nos.fork = lambda: 0\n", "the import has replaced os.fork"),
            ("import os\nos.environ['CONTROL_PLANE_API_KEY']\n", "the import failed: KeyError"),
            ("import os\nos._exit(3)\n", "its process has ended"),
            ("import os\nos.utime(__file__)\n", "main.py has changed"),
        ],
        ids=["thread", "replaced", "key", "exit", "written"],
    )
    async def test_what_cannot_be_forked_starts_cold(
        self,
        warm_backend: WarmBackend,
        capsys: pytest.CaptureFixture[str],
        code: str,
        reason: str,
    ) -> None:
        image = warm_backend.module(code + "def function(): print('ran')\n")
        first, second = (warm_backend.request_for(image) for _ in range(2))

        lines = await cold(warm_backend, first)
        assert not await settled(warm_backend, first)
        await no_parents(warm_backend)

        assert await cold(warm_backend, second) == lines
        assert warm_backend.warm_first.warm_parents().count() == 0
        assert not started(warm_backend, second).warm
        assert capsys.readouterr().out.count(reason) == 1
        assert lines == ([] if "_exit" in code else ["ran"])


class TestIsolation:
    async def test_a_call_sees_nothing_of_another(self, warm_backend: WarmBackend) -> None:
        code = """
import os, time
calls = []
def function():
    calls.append(os.environ["TOKEN"])
    open("file", "x").close()
    print(calls, flush=True)
    time.sleep(60)
"""
        image = warm_backend.module(code)
        first, second = (
            warm_backend.request_for(image, environment={"TOKEN": f"token-{name}"})
            for name in ("first", "second")
        )
        for request in (first, second):
            worker = await warm_backend.provisioner.provision(request)
            line = f"[{request.environment['TOKEN']!r}]"
            await wait_for_line(warm_backend.provisioner, worker, line)

        [parent] = parent_processes(warm_backend)
        theirs = started(warm_backend, second)
        for pid in (parent, theirs.shim.pid, theirs.program.pid):
            if pid == theirs.shim.pid and os.geteuid() != 0:
                with pytest.raises(PermissionError):
                    memory_of(pid)
                continue
            memory = memory_of(pid)
            assert first.environment["TOKEN"].encode() not in memory
            assert first.environment["CONTROL_PLANE_API_KEY"].encode() not in memory
            # It would have been found.
            assert (second.environment["TOKEN"].encode() in memory) == (pid != parent)

    async def test_the_environment_is_a_cold_worker_s(self, warm_backend: WarmBackend) -> None:
        code = """
import os, tempfile
os.environ["SET_BY_THE_IMPORT"] = tempfile.gettempdir()
def function():
    for name, value in sorted(os.environ.items()):
        print(name, value)
    print(tempfile.gettempdir())
    for entry in sorted(open("/proc/self/environ").read().strip("\\0").split("\\0")):
        print("proc", entry)
"""
        image = warm_backend.module(code)
        requests = [warm_backend.request_for(image) for _ in range(2)]
        lines = [await cold(warm_backend, requests[0])]
        assert await settled(warm_backend, requests[0])
        lines.append(await cold(warm_backend, requests[1]))
        assert started(warm_backend, requests[1]).warm

        def alike(line: str) -> str:
            for request in requests:
                line = line.replace(request.execution_id, "exe")
                line = line.replace(request.execution_id[-12:], "exe")
            # Paths that the import has learnt are those of the process that has imported.
            return re.sub(r"^(SET_BY_THE_IMPORT) .*", r"\1", line)

        assert [alike(line) for line in lines[1]] == [alike(line) for line in lines[0]]

    async def test_what_the_import_prints_is_in_each_log(self, warm_backend: WarmBackend) -> None:
        code = "import os\nos.system('echo one')\nprint('two', end='')\ndef function(): print('!')"
        image = warm_backend.module(code)

        outputs = [(await run(warm_backend, warm_backend.request_for(image)))[1] for _ in range(2)]

        assert outputs == [["one", "two!"]] * 2

    async def test_files_of_the_import_stay_while_they_are_used(
        self, warm_backend: WarmBackend
    ) -> None:
        code = """
import os, tempfile, time
made = tempfile.NamedTemporaryFile()
def function():
    print("ready", flush=True)
    while os.path.exists(made.name) and not os.path.exists("../release"):
        time.sleep(0.01)
    print(os.path.exists(made.name))
"""
        request = warm_backend.request_for(warm_backend.module(code))
        worker = await warm_backend.provisioner.provision(request)
        await wait_for_line(warm_backend.provisioner, worker, "ready")
        [parent] = parent_processes(warm_backend)

        os.kill(parent, signal.SIGKILL)
        await no_parents(warm_backend)
        warm_backend.release(request.execution_id)

        await wait_for_end(warm_backend.provisioner, worker)
        page = await warm_backend.provisioner.read_logs(worker, offset="", ended=True)
        assert page.lines == ["ready", "True"]


class TestBounds:
    async def test_an_idle_parent_goes(self, tmp_path: Path) -> None:
        async with with_limits(tmp_path, WarmLimits(idle_seconds=0.3)) as backend:
            request = backend.request(Behaviour.EXITS_WITH_3)
            await run(backend, request)

            await no_parents(backend)

            assert [path.name for path in (backend.workers.parent / "warm").rglob("warm-*")] == []

    async def test_an_old_parent_goes_although_it_is_used(self, tmp_path: Path) -> None:
        async with with_limits(tmp_path, WarmLimits(age_seconds=1)) as backend:
            # One that ends at the moment of a start is none.
            backend.all_warm = False
            image = backend.project("")
            await run(backend, backend.request_for(image))
            [parent] = parent_processes(backend)
            while parent in process_ids():
                await run(backend, backend.request_for(image))

    async def test_as_many_as_the_project_wants(self, warm_backend: WarmBackend) -> None:
        image = warm_backend.module("def a(): print('a')\ndef b(): print('b')\n", warm=1)
        first = warm_backend.request_for(image, function="a")
        second = warm_backend.request_for(image, function="b")
        await cold(warm_backend, first)
        assert await settled(warm_backend, first)

        assert await cold(warm_backend, second) == ["b"]

        assert warm_backend.warm_first.warm_parents().count() == 1

    async def test_as_many_as_the_operator_allows(self, tmp_path: Path) -> None:
        async with with_limits(tmp_path, WarmLimits(parents=1)) as backend:
            first, second = (backend.request(Behaviour.EXITS_WITH_3) for _ in range(2))
            second = dataclasses.replace(second, version_id=VersionId("ver-" + "1" * 32))
            await cold(backend, first)
            assert await settled(backend, first)

            await cold(backend, second)

            assert backend.warm_first.warm_parents().count() == 1

    async def test_an_import_without_end(self, tmp_path: Path) -> None:
        async with with_limits(tmp_path, WarmLimits(import_seconds=0.5)) as backend:
            code = """
import os, time
if os.path.exists(os.environ["CONTROL_PLANE_PROJECT_FOLDER"] + "/hang"):
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    time.sleep(60)
def function(): print("ran")
"""
            request = backend.request_for(backend.module(code))
            (backend.folder / "project-1" / "hang").touch()
            warm = backend.warm_first.warm_parents()
            warm.want(request, backend.project_of(request))

            assert not await settled(backend, request)

            await no_parents(backend)
