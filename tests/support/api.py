"""What the API's tests share: requests as users and workers send them, rows as activities do."""

import asyncio
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

from api.http.server import bind, serve
from core.clock import utc_now
from core.ids import ExecutionId, InvocationId, execution_id_of_run
from core.states import WorkerStatus
from registry.changes import Changes
from registry.database.engine import Registry
from registry.database.tables import Execution, Invocation, LogChunk
from tests.support.harness import API_KEY, TOKENS, Json

USER = {"Authorization": f"Bearer {API_KEY}"}


def as_worker(execution_id: ExecutionId) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS.derive(execution_id)}"}


class Api:
    """Speaks HTTP to the application; a user's key is sent unless other headers are given."""

    def __init__(self, http: httpx.AsyncClient, registry: Registry) -> None:
        self.http = http
        self.registry = registry

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        sent = USER if headers is None else headers
        return await self.http.request(method, path, headers=dict(sent), **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def put(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("PUT", path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("POST", path, **options)

    async def ok(self, method: str, path: str, **options: Any) -> Json:
        answer = await self.request(method, path, **options)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        body: Json = answer.json()
        return body

    async def deploy(self, *functions: Json, project: str = "shop") -> str:
        """Create the project if need be and register a version; returns the version's path."""
        await self.put(f"/projects/{project}")
        version = await self.ok(
            "POST",
            f"/projects/{project}/versions",
            json={"default_docker_image": "image:1", "functions": list(functions)},
        )
        return f"/projects/{project}/versions/{version['version_id']}"

    async def invoke(self, function_path: str, **fields: Any) -> str:
        """Create an invocation; returns its path."""
        path = f"{function_path}/invocations"
        answer = await self.ok("POST", path, json={"input": "the input", **fields})
        return f"{path}/{answer['invocation_id']}"

    async def add_execution(self, invocation_path: str, **fields: Any) -> str:
        """Insert an execution as an activity would; returns its path."""
        invocation_id = id_of(invocation_path)
        execution_id = execution_id_of_run(str(uuid.uuid4()))
        now = utc_now()
        async with self.registry.transaction() as session:
            invocation = await session.get_one(Invocation, invocation_id)
            values: dict[str, Any] = {
                "attempt": 1,
                "worker_status": WorkerStatus.RUNNING,
                "pool": "process",
                "created_at": now,
                "updated_at": now,
                **fields,
            }
            session.add(
                Execution(
                    id=execution_id,
                    invocation_id=invocation_id,
                    function_id=invocation.function_id,
                    **values,
                )
            )
        return f"{invocation_path}/executions/{execution_id}"

    async def change_execution(self, execution_path: str, **fields: Any) -> None:
        async with self.registry.transaction() as session:
            execution = await session.get_one(Execution, id_of(execution_path))
            for name, value in fields.items():
                setattr(execution, name, value)

    async def change_invocation(self, invocation_path: str, **fields: Any) -> None:
        async with self.registry.transaction() as session:
            invocation = await session.get_one(Invocation, id_of(invocation_path))
            for name, value in fields.items():
                setattr(invocation, name, value)

    async def add_log_lines(self, execution_path: str, *chunks: list[str]) -> None:
        first_line = 0
        async with self.registry.transaction() as session:
            for lines in chunks:
                session.add(
                    LogChunk(
                        execution_id=id_of(execution_path),
                        first_line=first_line,
                        next_line=first_line + len(lines),
                        lines=lines,
                        next_offset=first_line + len(lines),
                    )
                )
                first_line += len(lines)


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def execution_id_of(path: str) -> ExecutionId:
    return ExecutionId(id_of(path))


def invocation_id_of(path: str) -> InvocationId:
    return InvocationId(id_of(path))


def parent_of(function_name: str, invocation_path: str) -> Json:
    return {"function_name": function_name, "invocation_id": id_of(invocation_path)}


def assert_error(answer: httpx.Response, status: int, detail: str) -> None:
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    assert answer.headers["content-type"] == "application/json"


@dataclass(frozen=True)
class Server:
    """The application on a port."""

    listener: socket.socket
    port: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    app: FastAPI,
    changes: Changes,
    *,
    tls: ssl.SSLContext | None = None,
    max_connections: int | None = None,
) -> AsyncIterator[Server]:
    """Serve on a port; setting the event stops the server, and the end of the block too."""
    with bind("127.0.0.1", 0) as listener:
        server = Server(listener, listener.getsockname()[1])
        serves = asyncio.create_task(
            serve(
                app,
                listener=listener,
                changes=changes,
                stop=server.stop,
                tls=tls,
                max_connections=max_connections,
            )
        )
        try:
            yield server
        finally:
            server.stop.set()
            async with asyncio.timeout(45):
                await serves
