"""Warm parents that are killed, hang or go: their workers run on, and the next start works."""

import dataclasses
import json
import os
import signal
import threading

import pytest

from provisioners.base import Running
from provisioners.conformance import Behaviour, until, wait_for_end, wait_for_line
from provisioners.process.provisioner import ProcessProvisioner
from tests.support.provisioners.process_backend import run, started
from tests.support.provisioners.process_driver import driver
from tests.support.provisioners.warm_backend import WarmBackend
from tests.support.provisioners.warm_parents import (
    cold,
    cold_start,
    gone,
    living_parent,
    no_parents,
    parent_processes,
)


class TestTrouble:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("provisioners.process.warm.handle.ANSWER_SECONDS", 1.0)

    async def test_a_killed_parent_leaves_its_workers(self, warm_backend: WarmBackend) -> None:
        provisioner = warm_backend.warm_first
        image = warm_backend.project("print('ready', flush=True)\nwait_for_release()\nsys.exit(3)")
        running = warm_backend.request_for(image)
        worker = await provisioner.provision(running)
        await wait_for_line(provisioner, worker, "ready")
        [parent] = parent_processes(warm_backend)

        os.kill(parent, signal.SIGKILL)
        await gone(parent)

        assert await provisioner.observe(worker) == Running()
        next_one = await cold_start(warm_backend, image)
        warm_backend.release(next_one.execution_id)
        warm_backend.release(running.execution_id)
        assert (await wait_for_end(provisioner, worker)).exit_code == 3
        assert warm_backend.processes_of(running.execution_id) == []

    @pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
    async def test_a_parent_that_does_not_answer(
        self, warm_backend: WarmBackend, number: signal.Signals
    ) -> None:
        request = warm_backend.request(Behaviour.EXITS_WITH_3)
        await warm_backend.warm_first.warm_up(request)
        [parent] = parent_processes(warm_backend)
        os.kill(parent, number)

        assert await cold(warm_backend, request) == ["one", "two"]

        assert warm_backend.starts(request.execution_id) == 1
        assert not started(warm_backend, request).warm
        await gone(parent)

    @pytest.mark.parametrize(
        "hook",
        [
            "os.register_at_fork(after_in_child=lambda: time.sleep(60))",
            "json.loads = lambda *_: time.sleep(60)",
            "json.loads = lambda *_: os._exit(1)",
        ],
        ids=["before-the-lock", "with-the-lock", "dies-with-the-lock"],
    )
    async def test_a_forked_worker_that_does_not_answer(
        self, warm_backend: WarmBackend, hook: str
    ) -> None:
        code = f"import json, os, time\nif 'CONTROL_PLANE_API_KEY' not in os.environ:\n    {hook}\n"
        image = warm_backend.module(code + "def function(): print('ran')\n")
        request = warm_backend.request_for(image)
        await warm_backend.warm_first.warm_up(request)
        [parent] = parent_processes(warm_backend)

        assert await cold(warm_backend, request) == ["ran"]

        assert not started(warm_backend, request).warm
        await gone(parent)

    async def test_parents_that_are_killed_at_any_moment(self, warm_backend: WarmBackend) -> None:
        warm_backend.all_warm = False
        image = warm_backend.project("print('ran')")
        for number in range(12):
            request = warm_backend.request_for(image)
            parent = await living_parent(warm_backend, request)
            # From before the fork to after the start.
            timer = threading.Timer(number * 0.0015, os.kill, (parent, signal.SIGKILL))
            timer.start()

            assert await cold(warm_backend, request) == ["ran"]

            timer.join()
            assert warm_backend.starts(request.execution_id) == 1
            await gone(parent)

    async def test_what_an_import_has_started_ends_with_the_parent(
        self, warm_backend: WarmBackend
    ) -> None:
        code = """
import os
os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
def function(): print("ran")
"""
        request = warm_backend.request_for(warm_backend.module(code))
        assert (await run(warm_backend, request))[1] == ["ran"]
        parents = parent_processes(warm_backend)
        assert len(parents) == 2

        os.kill(min(parents), signal.SIGKILL)

        await no_parents(warm_backend)

    @pytest.mark.parametrize("doing", ["pass", "time.sleep(60)"], ids=["waits", "imports"])
    async def test_parents_end_with_the_temporal_worker(
        self, warm_backend: WarmBackend, doing: str
    ) -> None:
        code = f"""
import os, time
if 'CONTROL_PLANE_API_KEY' not in os.environ:
    open(os.environ["CONTROL_PLANE_PROJECT_FOLDER"] + "/mark", "x").close()
    {doing}
def function():
    while not os.path.exists("../release"):
        time.sleep(0.01)
"""
        image = warm_backend.module(code)
        request = warm_backend.request_for(image)
        warm_backend.all_warm = False
        with driver(warm_backend, request=dataclasses.asdict(request)) as (process, _):

            async def there() -> bool:
                return (warm_backend.folder / "project-1" / "mark").exists()

            await until(there, what="a parent in the other process", timeout=60)
            process.kill()
            process.wait()

        await no_parents(warm_backend)
        worker = await ProcessProvisioner.provision(warm_backend.warm_first, request)
        assert await warm_backend.provisioner.observe(worker) == Running()
        # The next process clears its folder; that of a process that is there stays.
        await warm_backend.another()
        assert len(list((warm_backend.workers.parent / "warm").iterdir())) == 2

    async def test_a_warm_worker_outlives_the_temporal_worker(
        self, warm_backend: WarmBackend
    ) -> None:
        request = warm_backend.request(Behaviour.RUNS)
        order = dataclasses.asdict(request)
        with driver(warm_backend, request=order, warm=True) as (process, answer):
            process.kill()
            process.wait()

        provisioner = warm_backend.warm_first
        worker = await ProcessProvisioner.provision(provisioner, request)
        assert worker.state == json.loads(answer)["state"]
        await wait_for_line(provisioner, worker, "ready")
        ended = await provisioner.terminate(request.execution_id, worker, grace=20)
        assert ended.exit_code == 0
        assert warm_backend.starts(request.execution_id) == 1
        assert started(warm_backend, request).warm
        # What the killed process has left is cleared away by the next one.
        await warm_backend.another()
        assert len(list((warm_backend.workers.parent / "warm").iterdir())) == 2
