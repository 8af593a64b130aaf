"""The command `control-plane api` as a real process."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from core.settings import RegistrySettings
from registry.database.migrate import drop_all_tables
from tests.support.harness import eventually
from tests.support.ports import free_port
from tests.support.servers import connect, environment_of

GOOD_KEY = "3d1f8a60c2e94b57"
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
        # Not root's: the kernel gives that to what others must not read.
        group=1 if os.geteuid() == 0 else None,
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


@pytest.mark.parametrize("variable", ["CONTROL_PLANE_API_KEY", "CONTROL_PLANE_API_KEY_PREVIOUS"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - what is refused
async def test_a_key_that_can_be_guessed_is_refused_where_others_reach_the_api(
    registry_settings: RegistrySettings, variable: str, host: str
) -> None:
    environment = {
        **environment_of(registry_settings),
        "CONTROL_PLANE_API_KEY": GOOD_KEY,
        variable: "butterflyburger",
    }
    arguments = ("--provisioner=process", f"--host={host}", "--port=0")
    async with _running(*arguments, environment=environment) as process:
        async with asyncio.timeout(60):
            _, stderr = await process.communicate()
    assert process.returncode == 2
    (line,) = stderr.decode().splitlines()
    assert line.startswith(f"Error: {variable} is a well-known word, and others than this machine ")
    assert "openssl rand -hex 32" in line
    assert "butterflyburger" not in line


@pytest.mark.parametrize(
    ("host", "others", "warnings"),
    [
        ("127.0.0.1", {"CONTROL_PLANE_API_KEY": "butterflyburger"}, 1),
        ("::1", {"CONTROL_PLANE_API_KEY": "butterflyburger"}, 1),
        (
            "0.0.0.0",  # noqa: S104 - of no consequence: nothing is deployed
            {"CONTROL_PLANE_API_KEY": "butterflyburger", "CONTROL_PLANE_INSECURE_KEY": "1"},
            1,
        ),
        ("127.0.0.1", {"CONTROL_PLANE_API_KEY": GOOD_KEY}, 0),
        (
            "127.0.0.1",
            {"CONTROL_PLANE_API_KEY": GOOD_KEY, "CONTROL_PLANE_TOKEN_SECRET": "x" * 40},
            1,
        ),
    ],
)
async def test_otherwise_it_is_taken_with_a_warning(
    registry_settings: RegistrySettings, host: str, others: dict[str, str], warnings: int
) -> None:
    environment = {**environment_of(registry_settings), **others}
    arguments = ("--provisioner=process", f"--host={host}", "--port=0")
    async with _running(*arguments, environment=environment) as process:
        said = await _until_it_listens(process)
        assert said.count("key_can_be_guessed") == warnings
        # Nobody reads what it was started with, whatever it has removed from its environment since:
        # files of a process that is not dumpable belong to root.
        assert _owner_of_environment(process.pid) == (0, 0)
        process.terminate()
        async with asyncio.timeout(40):
            assert await process.wait() == 0


def _owner_of_environment(pid: int) -> tuple[int, int]:
    found = Path(f"/proc/{pid}/environ").stat()
    return found.st_uid, found.st_gid


async def _until_it_listens(process: asyncio.subprocess.Process) -> str:
    """Give what it has said until then."""
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(60):
        while "api_listening" not in said:
            line = await process.stderr.readline()
            assert line, said
            said += line.decode()
    return said


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--certificate-file=none.pem", "--certificate-file and --key-file belong together"),
        ("--key-file=none.pem", "--certificate-file and --key-file belong together"),
    ],
)
async def test_half_a_certificate_is_a_usage_error(
    registry_settings: RegistrySettings, option: str, text: str
) -> None:
    environment = {**environment_of(registry_settings), "CONTROL_PLANE_API_KEY": GOOD_KEY}
    async with _running("--provisioner=process", option, environment=environment) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert text in stderr.decode()


async def test_a_certificate_that_cannot_be_used_is_one_line_and_exit_1(
    registry_settings: RegistrySettings,
) -> None:
    environment = {
        **environment_of(registry_settings),
        "CONTROL_PLANE_API_KEY": GOOD_KEY,
        "CONTROL_PLANE_TLS_CERTIFICATE_FILE": "/none/certificate.pem",
        "CONTROL_PLANE_TLS_KEY_FILE": "/none/key.pem",
    }
    async with _running("--provisioner=process", environment=environment) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode() == (
        "Error: The certificate /none/certificate.pem cannot be read: No such file or directory\n"
    )


async def test_secrets_may_come_from_files(
    registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    environment = environment_of(registry_settings)
    for name, secret in (
        ("CONTROL_PLANE_API_KEY", GOOD_KEY),
        ("POSTGRES_PASSWORD", environment.pop("POSTGRES_PASSWORD")),
    ):
        (tmp_path / name).write_text(f"{secret}\n")
        environment[f"{name}_FILE"] = str(tmp_path / name)
    arguments = ("--provisioner=process", "--host=127.0.0.1", "--port=0")
    async with _running(*arguments, environment=environment) as process:
        said = await _until_it_listens(process)
        port = json.loads(said.splitlines()[-1])["port"]
        url = f"http://127.0.0.1:{port}/projects"
        assert await _status(url, {"Authorization": f"Bearer {GOOD_KEY}"}) == 200
        assert await _status(url, {"Authorization": "Bearer wrong"}) == 403
