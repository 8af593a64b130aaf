"""The command `control-plane api` as a real process."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from core.settings import RegistrySettings
from registry.database.migrate import drop_all_tables
from tests.support.harness import eventually
from tests.support.ports import free_port
from tests.support.servers import connect, environment_of

START = "from api.cli import api; api()"


@asynccontextmanager
async def _running(
    *arguments: str, environment: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        START,
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _tables(settings: RegistrySettings) -> list[str]:
    with connect(settings, database=settings.postgres_db) as connection:
        rows = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
    return sorted(row[0] for row in rows)


async def _status(url: str, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient() as http:
        try:
            return (await http.get(url, headers=headers)).status_code
        except httpx.TransportError:
            return 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_creates_the_tables_serves_without_temporal_and_deletes_them_at_the_end(
    registry_settings: RegistrySettings, stop: signal.Signals
) -> None:
    await asyncio.to_thread(drop_all_tables, registry_settings)
    port = free_port()
    environment = {
        **environment_of(registry_settings),
        "CONTROL_PLANE_API_KEY": "butterflyburger",
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "CONTROL_PLANE_PORT": str(port),
    }
    arguments = ("--provisioner=Process", "--create-tables", "--delete-tables", "--host=127.0.0.1")
    async with _running(*arguments, environment=environment) as process:
        headers = {"Authorization": "Bearer butterflyburger"}
        url = f"http://127.0.0.1:{port}/projects"

        async def answers() -> bool:
            return await _status(url, headers) == 200

        await eventually(answers, bool, seconds=60)
        assert "projects" in await asyncio.to_thread(_tables, registry_settings)
        process.send_signal(stop)
        async with asyncio.timeout(40):
            assert await process.wait() == 0
    assert await asyncio.to_thread(_tables, registry_settings) == []


async def test_a_missing_setting_is_one_line_and_exit_1(
    registry_settings: RegistrySettings,
) -> None:
    async with _running(
        "--provisioner=Process", environment=environment_of(registry_settings)
    ) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode() == "Error: Environment variable CONTROL_PLANE_API_KEY not found\n"


async def test_a_missing_flag_is_exit_2(registry_settings: RegistrySettings) -> None:
    async with _running(environment=environment_of(registry_settings)) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"--provisioner" in stderr


async def test_an_unknown_provisioner_is_exit_2_with_the_names_there_are(
    registry_settings: RegistrySettings,
) -> None:
    async with _running(
        "--provisioner=bogus", environment=environment_of(registry_settings)
    ) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"There is no provisioner 'bogus'. Available: dev, " in stderr
    assert b"Traceback" not in stderr


async def test_help_imports_nothing_heavy(registry_settings: RegistrySettings) -> None:
    code = (
        "import sys, json, api.cli, runtime.migrate_command, worker.cli, standalone.cli;"
        "print(json.dumps([m for m in ('fastapi', 'sqlalchemy', 'temporalio', 'alembic')"
        " if m in sys.modules]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        env=environment_of(registry_settings),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert json.loads(stdout) == []


async def test_a_taken_port_is_named_and_exit_1(registry_settings: RegistrySettings) -> None:
    environment = {
        **environment_of(registry_settings),
        "CONTROL_PLANE_API_KEY": "butterflyburger",
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("--provisioner=Process", "--host=127.0.0.1", f"--port={address[10:]}")
        async with _running(*arguments, environment=environment) as process:
            _, stderr = await process.communicate()
    assert process.returncode == 1
    assert f"Error: Cannot listen on {address}: Address already in use" in stderr.decode()
