"""The parts as an operator runs them: API and Temporal worker each a process of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from core.settings import RegistrySettings
from core.temporal.client import SEARCH_ATTRIBUTES
from registry.database.migrate import upgrade
from standalone.servers.ports import free_ports
from standalone.servers.postgres import EmbeddedPostgres
from standalone.temporal.open_server import OpenTemporal

API_KEY: Final = "bench"
_DATABASE: Final = "control_plane"
_COMMAND: Final = Path(sys.executable).with_name("control-plane")


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Postgres and Temporal, and what the parts need to find them."""

    registry: RegistrySettings
    environment: Mapping[str, str]
    api_url: str
    postgres_pid: int
    temporal_pid: int


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[Servers]:
    """Run Postgres, with the registry's schema, and Temporal during the block."""
    folder.mkdir()
    folder.chmod(0o711)
    async with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        OpenTemporal(
            folder / "temporal", ui=False, search_attributes=SEARCH_ATTRIBUTES
        ) as temporal,
    ):
        await asyncio.to_thread(postgres.create_database, _DATABASE)
        settings = postgres.registry_settings(_DATABASE)
        await asyncio.to_thread(upgrade, settings)
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        assert postgres.pid is not None
        assert temporal.pid is not None
        yield Servers(
            registry=settings,
            api_url=url,
            postgres_pid=postgres.pid,
            temporal_pid=temporal.pid,
            environment={
                **os.environ,
                **temporal.environment(),
                **postgres.environment(_DATABASE),
                "CONTROL_PLANE_API_KEY": API_KEY,
                "CONTROL_PLANE_API_URL": url,
                "LOG_LEVEL": "ERROR",
            },
        )


@asynccontextmanager
async def command(*arguments: str, given: Servers) -> AsyncIterator[int]:
    """Run a `control-plane` command during the block; gives its pid."""
    process = await asyncio.create_subprocess_exec(
        _COMMAND,
        *arguments,
        env=dict(given.environment),
        stdin=subprocess.DEVNULL,
        # The structured log: it is not read here.
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def api(given: Servers, *, provisioner: str = "dev") -> AsyncIterator[int]:
    """Run the API during the block, from its first answer on; gives its pid."""
    port = given.api_url.rpartition(":")[2]
    arguments = ["api", "--provisioner", provisioner, "--host", "127.0.0.1", "--port", port]
    async with command(*arguments, given=given) as pid:
        await until_answers(f"{given.api_url}/")
        yield pid


async def until_answers(url: str) -> None:
    """Ask until a server answers, whatever it says."""
    async with aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(url):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
