"""Workers that are forked from warm parents: Python functions, and the API that they report to."""

import asyncio
import dataclasses
import time
from pathlib import Path

from provisioners.base import ResourceSpec, WorkerRecord, WorkerRequest
from provisioners.code.project import Project, open_project
from provisioners.conformance import NoBundles, until
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.folder import WorkerFolder
from provisioners.process.provisioner import ProcessProvisioner
from provisioners.process.warm.parents import WarmLimits, WarmParents
from tests.support.provisioners.http_peer import Answer, Call, HttpPeer
from tests.support.provisioners.process_backend import DEPLOYMENT, PRELUDE, SMALL, ProcessBackend

# The function does what the program of a cold worker does, and ends as that ends.
_MAIN = """
import os, signal, sys
with open(os.environ["CONTROL_PLANE_PROJECT_FOLDER"] + "/imports", "a") as file:
    file.write("x")
def function():
    # The runner's handler is tested elsewhere.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        exec(compile({script!r}, "script", "exec"), globals())
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code)
"""


class WarmFirst(ProcessProvisioner):
    """Makes sure that there is a parent before it starts a worker."""

    async def provision(self, request: WorkerRequest) -> WorkerRecord:
        await self.warm_up(request)
        return await super().provision(request)

    async def project_of(self, request: WorkerRequest) -> Project:
        """Give the code that the workers of a function run."""
        return await self._fetch(request) or open_project(request.docker_image)

    def warm_parents(self) -> WarmParents:
        """Give what keeps warm parents."""
        warm = self._started().warm
        assert warm is not None
        return warm

    async def warm_up(self, request: WorkerRequest) -> None:
        """Wait until there is a parent for a function."""
        project, warm = await self.project_of(request), self.warm_parents()

        async def ready() -> bool:
            warm.want(request, project)
            return warm.is_ready_for(request, project)

        await until(ready, what="a warm parent is ready", timeout=60)


class WarmBackend(ProcessBackend):
    """Python functions of projects that ask for warm starts."""

    def __init__(
        self, folder: Path, *, use_cgroups: bool = True, limits: WarmLimits | None = None
    ) -> None:
        super().__init__(folder)
        self.config = ProcessProvisionerConfig(
            state_folder=folder / "state",
            use_cgroups=use_cgroups,
            warm=limits or WarmLimits(),
        )
        self.warm_first = WarmFirst(self.config)
        self.provisioner = self.warm_first
        self.all_warm = True
        """Whether each worker that has run must have been a warm one."""
        self.peer = HttpPeer(_answer)

    def project(self, script: str, *, name: str | None = None) -> str:
        return self.module(_MAIN.format(script=PRELUDE + script), name=name)

    def module(self, code: str, *, name: str | None = None, warm: int = 3) -> str:
        """Make a project whose main.py is this."""
        self._projects += 1
        project = self.folder / (name or f"project-{self._projects}")
        project.mkdir()
        project.chmod(0o777)
        (project / "main.py").write_text(code)
        (project / "main.py").chmod(0o666)
        (project / "control-plane.toml").write_text(f"warm = {warm}\n")
        return project.as_uri()

    def request_for(
        self,
        image: str,
        *,
        spec: ResourceSpec = SMALL,
        environment: dict[str, str] | None = None,
        function: str = "function",
    ) -> WorkerRequest:
        given = {"TOKEN": "the token"} if environment is None else environment
        request = super().request_for(image, spec=spec, environment=given)
        facts = {
            "PROJECT_NAME": request.project_name,
            "VERSION_ID": request.version_id,
            "FUNCTION_NAME": function,
            "INVOCATION_ID": request.invocation_id,
            "EXECUTION_ID": request.execution_id,
            "API_URL": self.peer.url,
            "API_KEY": f"key-of-{request.execution_id}",
        }
        for name, value in facts.items():
            request.environment[f"CONTROL_PLANE_{name}"] = value
        return dataclasses.replace(request, function_name=function)

    def project_of(self, request: WorkerRequest) -> Project:
        return open_project(request.docker_image)

    async def another(self) -> ProcessProvisioner:
        other = WarmFirst(self.config)
        await other.start(DEPLOYMENT, NoBundles())
        self._others.append(other)
        return other

    async def close(self) -> None:
        cold = [
            execution_id
            for execution_id in await self.provisioner.list_workers()
            if (found := WorkerFolder(self.worker_folder(execution_id)).started())
            and found.shim.pid
            and not found.warm
        ]
        await super().close()
        await asyncio.to_thread(self.peer.close)
        warm = self.workers.parent / "warm"
        left = [path for path in warm.rglob("*") if path.exists()] if warm.exists() else []
        assert left == []
        assert not (self.all_warm and cold)


def _answer(call: Call) -> Answer:
    if not call.path.endswith("/start"):
        return Answer(body={})
    body = {
        "input": None,
        "invocation_creation_time": int(time.time()),
        "execution_spec": {"timeout_seconds": 3600},
        "attempt": 1,
    }
    return Answer(body=body)
