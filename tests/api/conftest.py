"""The application over real Postgres and real Temporal, but without any Temporal worker.

Workflows are started and never run, so that every state of the rows is the test's own doing.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client

from api.app import create_app
from core.settings import ApiSettings, RegistrySettings
from registry.changes import Changes
from registry.database.engine import Registry
from tests.support.api import Api
from tests.support.harness import API_KEY, STANDARD, parts_for
from tests.support.servers import Addresses
from tests.support.shared_routes import on_shared_routes
from tests.support.stack.processes import Program
from tests.support.stack.stack import environment_for


@pytest.fixture
def api_program(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> Iterator[Program]:
    """An API as a process of its own, which a test may end."""
    environment = environment_for(registry_settings, servers)
    program = Program(
        "api",
        "--provisioner=process",
        "--host=127.0.0.1",
        "--port=0",
        environment={**environment, "CONTROL_PLANE_API_KEY": API_KEY},
        folder=tmp_path,
    )
    yield program
    program.kill()


@pytest.fixture
def api_settings() -> ApiSettings:
    return ApiSettings()


@pytest.fixture
async def changes(registry: Registry) -> AsyncIterator[Changes]:
    async with Changes(registry) as changes:
        yield changes


@pytest.fixture
def app(
    registry: Registry,
    changes: Changes,
    temporal_client: Client,
    task_queue: str,
    api_settings: ApiSettings,
) -> FastAPI:
    parts = parts_for(registry, temporal_client, task_queue)
    return create_app(parts, changes=changes, default_pool="dev", api_settings=api_settings)


@pytest.fixture
async def api(app: FastAPI, registry: Registry) -> AsyncIterator[Api]:
    transport = httpx.ASGITransport(app=on_shared_routes(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://control-plane") as http:
        yield Api(http, registry)


@pytest.fixture
async def function(api: Api) -> str:
    """The path of one deployed function, `standard`."""
    return f"{await api.deploy(STANDARD)}/functions/standard"
