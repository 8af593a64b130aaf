"""A whole control plane in the test's process, spoken to over HTTP as users do."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr
from temporalio.client import Client, WorkflowHandle
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from api.app import create_app
from core.ids import ExecutionId
from core.settings import (
    ApiKeySettings,
    ApiSettings,
    BundleStoreSettings,
    TemporalSettings,
    TemporalWorkerSettings,
)
from core.temporal.names import SWEEP
from core.temporal.queues import control_queue
from core.tokens import ExecutionTokens
from provisioners.base import Provisioner
from registry.changes import Changes
from registry.database.engine import Registry
from runtime.parts import Parts, make_parts
from tests.support.scripted_provisioner import ScriptedProvisioner, ScriptedWorker
from tests.support.shared_routes import on_shared_routes
from worker.build import temporal_worker

API_KEY = "butterflyburger"
_TOKEN_SECRET = "a secret for tests"
TOKENS = ExecutionTokens(_TOKEN_SECRET)
API_KEYS = ApiKeySettings(
    control_plane_api_key=SecretStr(API_KEY), control_plane_token_secret=SecretStr(_TOKEN_SECRET)
)
UI_URL = "http://127.0.0.1:8233"

Json = dict[str, Any]
T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T]], wanted: Callable[[T], object], *, seconds: float = 60
) -> T:
    """Look again and again until what is seen is wanted; returns it."""
    seen: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = await look()
                if wanted(seen):
                    return seen
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not seen within {seconds} s; the last sight was: {seen}") from None


async def eventually_true(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until something in this process holds."""

    async def look() -> bool:
        return condition()

    await eventually(look, bool, seconds=seconds)


async def heard(event: asyncio.Event, *, seconds: float = 60) -> None:
    """Wait until an event is set."""
    async with asyncio.timeout(seconds):
        await event.wait()


class ControlPlane:
    """Shorthand for the HTTP API, with the scripted provisioner at hand."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        provisioner: Provisioner,
        parts: Parts,
    ) -> None:
        self.http = http
        self.registry = parts.registry
        self.temporal = parts.temporal
        self.task_queue = parts.temporal_settings.temporal_task_queue
        self._provisioner = provisioner
        self._dispatcher = parts.dispatcher
        self.version_path = ""

    @property
    def provisioner(self) -> ScriptedProvisioner:
        assert isinstance(self._provisioner, ScriptedProvisioner)
        return self._provisioner

    async def call(self, method: str, path: str, **options: Any) -> Json:
        answer = await self.http.request(method, path, **options)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        body: Json = answer.json()
        return body

    async def deploy(self, *functions: Json, project: str = "shop", image: str = "image:1") -> None:
        """Create the project if need be and register a version with these functions."""
        await self.http.put(f"/projects/{project}")
        version = await self.call(
            "POST",
            f"/projects/{project}/versions",
            json={"default_docker_image": image, "functions": list(functions)},
        )
        self.version_path = f"/projects/{project}/versions/{version['version_id']}"

    async def invoke(self, function: str, *, argument: object = None, **fields: Any) -> str:
        """Start an invocation; returns its path."""
        path = f"{self.version_path}/functions/{function}/invocations"
        answer = await self.call("POST", path, json={"input": json.dumps(argument), **fields})
        return f"{path}/{answer['invocation_id']}"

    async def sweep(
        self, *, grace: float = 0.05, leftover_grace: float = 0.05, pool: str | None = None
    ) -> str:
        """Sweep once; returns what the sweep says."""
        handle = await self.start_sweep(grace=grace, leftover_grace=leftover_grace, pool=pool)
        return await handle.result()

    async def start_sweep(
        self, *, grace: float = 0.05, leftover_grace: float = 0.05, pool: str | None = None
    ) -> WorkflowHandle[Any, str]:
        pool = pool or self._provisioner.kind
        request = self._dispatcher.sweep_request(pool).model_copy(
            update={"grace_seconds": grace, "leftover_grace_seconds": leftover_grace}
        )
        return await self.temporal.start_workflow(
            SWEEP,
            request,
            id=f"sweep-{uuid.uuid4().hex}",
            task_queue=control_queue(self.task_queue),
            result_type=str,
        )

    async def get(self, path: str) -> Json:
        return await self.call("GET", path)

    async def until(
        self, path: str, wanted: Callable[[Json], object], *, seconds: float = 60
    ) -> Json:
        return await eventually(lambda: self.get(path), wanted, seconds=seconds)

    async def until_terminated(self, path: str, *, seconds: float = 60) -> Json:
        return await self.until(
            path, lambda seen: seen["invocation_status"] == "TERMINATED", seconds=seconds
        )

    async def until_worker_runs(self, path: str, *, attempt: int = 1) -> "RunningExecution":
        """Wait for the worker of an attempt; returns its execution."""
        seen = await self.until(
            path,
            lambda seen: (
                len(seen["executions"]) >= attempt
                and seen["executions"][attempt - 1]["worker_status"] == "RUNNING"
            ),
        )
        execution_id = ExecutionId(seen["executions"][attempt - 1]["execution_id"])
        return RunningExecution(self, f"{path}/executions/{execution_id}", execution_id)

    async def run_until_timeout(
        self, *, least: int = 1, retries: int = 0, concurrency: int = 100, **fields: Json
    ) -> tuple[str, "RunningExecution", int]:
        """Start a call with a timeout as short as this machine allows, `least` seconds or more.

        Returns its path, its execution, whose worker runs, and the timeout in seconds. Where the
        timeout passes before there is a worker, the machine is busy, and a longer one is tried.
        """
        for timeout in (least, 4 * least, 16 * least):
            spec = function_spec("brief", retries=retries, concurrency=concurrency, timeout=timeout)
            await self.deploy({**spec, **fields})
            path = await self.invoke("brief")
            seen = await self.until(
                path,
                lambda seen: (
                    seen["invocation_status"] == "TERMINATED"
                    or any(e["worker_status"] == "RUNNING" for e in seen["executions"])
                ),
            )
            if seen["invocation_status"] != "TERMINATED":
                return path, await self.until_worker_runs(path), timeout
        raise AssertionError(f"no worker within its timeout; the last call: {seen}")


class RunningExecution:
    """An execution whose worker the test plays."""

    def __init__(self, plane: ControlPlane, path: str, execution_id: ExecutionId) -> None:
        self._plane = plane
        self.path = path
        self.id = execution_id

    @property
    def worker(self) -> ScriptedWorker:
        return self._plane.provisioner.workers[self.id]

    async def start(self) -> Json:
        return await self._plane.call("PUT", f"{self.path}/start")

    async def update(self, output: str) -> Json:
        body = {"latest_output": output}
        return await self._plane.call("PUT", f"{self.path}/update", json=body)

    async def finish(
        self, outcome: str, *, output: str | None = None, error: str | None = None
    ) -> Json:
        body = {"outcome": outcome, "final_output": output, "error_message": error}
        return await self._plane.call("PUT", f"{self.path}/finish", json=body)

    async def play(
        self, outcome: str, *, output: str | None = None, error: str | None = None
    ) -> None:
        """Start, finish and go away."""
        await self.start()
        await self.finish(outcome, output=output, error=error)
        self.worker.end()


def function_spec(
    name: str,
    *,
    concurrency: int = 100,
    retries: int = 0,
    timeout: int = 120,
    image: str | None = None,
) -> Json:
    return {
        "function_name": name,
        "docker_image_override": image,
        "resource_spec": {
            "virtual_cpus": 0.5,
            "memory_gbs": 0.25,
            "max_concurrency": concurrency,
        },
        "execution_spec": {"max_retries": retries, "timeout_seconds": timeout},
    }


STANDARD = function_spec("standard")
LIMITED = function_spec("limited", concurrency=1)
RETRYABLE = function_spec("retryable", retries=5)


def parts_for(registry: Registry, client: Client, task_queue: str) -> Parts:
    """What API and Temporal worker are made from, on connections that stay the test's own."""
    return make_parts(
        registry,
        client,
        temporal_settings=TemporalSettings(
            temporal_namespace=client.namespace,
            temporal_task_queue=task_queue,
            temporal_heartbeat_seconds=2,
            temporal_ui_url=UI_URL,
        ),
        keys=API_KEYS,
        bundles=BundleStoreSettings(bundle_store_folder=None),
        look_again_seconds=1,
    )


@asynccontextmanager
async def running_control_plane(
    registry: Registry,
    client: Client,
    task_queue: str,
    *,
    provisioner: Provisioner | None = None,
    settings: TemporalWorkerSettings | None = None,
    sweep_interval_seconds: float = 0,
) -> AsyncIterator[ControlPlane]:
    """API and Temporal worker. Without an interval nothing sweeps but the test itself."""
    backend = provisioner or ScriptedProvisioner()
    temporal_worker_settings = settings or TemporalWorkerSettings(termination_grace_seconds=1)
    parts = parts_for(registry, client, task_queue)
    changes = Changes(registry)
    app = create_app(parts, changes=changes, default_pool=backend.kind, api_settings=ApiSettings())
    async with (
        changes,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=on_shared_routes(app)),
            base_url="http://control-plane",
            headers={"Authorization": f"Bearer {API_KEY}"},
        ) as http,
        temporal_worker(
            parts,
            provisioner=backend,
            settings=temporal_worker_settings.model_copy(
                update={"sweep_interval_seconds": sweep_interval_seconds}
            ),
            # It refuses what would not replay: clocks, random numbers, I/O.
            workflow_runner=SandboxedWorkflowRunner(),
        ),
    ):
        yield ControlPlane(http, backend, parts)
