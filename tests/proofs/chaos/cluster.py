"""Everything that runs: two servers, two control planes on them, and the links in between.

One control plane makes local processes and has two APIs and two Temporal workers. The other has one
of each, and asks the example provisioner server for its workers. Each has a database of its own.
"""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from temporalio.client import Client as TemporalClient

from core.settings import RegistrySettings, TemporalSettings
from core.temporal.client import SEARCH_ATTRIBUTES, connect
from core.temporal.queues import control_queue
from registry.database.migrate import upgrade
from standalone.servers.postgres import EmbeddedPostgres
from standalone.temporal.open_server import OpenTemporal
from tests.proofs.chaos.faults import Fault, Kind
from tests.proofs.chaos.link import Link
from tests.proofs.chaos.processes import Kept, KeptProgram, KeptServer
from tests.support.ports import free_port
from tests.support.provisioners.example_server import KEY, ExampleServer
from tests.support.servers import environment_of
from tests.support.stack.processes import Program, wait_for
from tests.support.stack.stack import end_workers

API_KEY = "butterflyburger-in-a-storm"
GRACE_SECONDS = 1
_LINK_KINDS = (Kind.REFUSE, Kind.SILENCE, Kind.DELAY)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One control plane: a kind of provisioner, and what belongs to it."""

    name: str
    """The kind of its provisioner."""
    registry: RegistrySettings
    """Leads to its database past the links."""
    task_queue: str
    state_folder: Path
    """Named in the environment or the arguments of each of its workers."""
    api: Link
    """Leads to its APIs in turn."""

    @property
    def control_queue(self) -> str:
        return control_queue(self.task_queue)


class KeptProvisioner(Kept):
    """The example provisioner server."""

    def __init__(self, server: ExampleServer) -> None:
        super().__init__("provisioner")
        self._server = server

    def _start(self) -> None:
        if self.pid is None:
            self._server.start()

    @property
    def pid(self) -> int | None:
        return self._server.server_pid

    async def _wait(self) -> None:
        await asyncio.to_thread(self._server.wait)

    def _end(self) -> None:
        self._server.close()


class Cluster:
    """What faults can hit, and where to look at the end."""

    def __init__(
        self, planes: Sequence[Plane], kept: Sequence[Kept], links: Sequence[Link]
    ) -> None:
        self.planes = planes
        self._kept = {one.name: one for one in kept}
        self._links = {link.name: link for link in links}

    def targets(self) -> Mapping[str, Sequence[Kind]]:
        """Say what can be done to what, for the plan."""
        kinds: dict[str, Sequence[Kind]] = {name: one.kinds for name, one in self._kept.items()}
        return kinds | dict.fromkeys(self._links, _LINK_KINDS)

    async def begin(self, fault: Fault) -> None:
        link = self._links.get(fault.target)
        if link is not None:
            link.disturb(fault.kind)
        else:
            await self._kept[fault.target].hit(fault.kind)

    def end(self, fault: Fault) -> None:
        self._heal(fault.target)

    def heal_everything(self) -> None:
        for name in (*self._links, *self._kept):
            self._heal(name)

    def _heal(self, name: str) -> None:
        link = self._links.get(name)
        if link is not None:
            link.heal()
        else:
            self._kept[name].heal()

    def restarts(self) -> dict[str, int]:
        """Say how often what was started again."""
        return {name: one.starts - 1 for name, one in self._kept.items()}

    def pids(self) -> set[int]:
        """Give the processes that are not workers."""
        return {pid for one in self._kept.values() if (pid := one.pid) is not None}


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[tuple[Cluster, TemporalClient]]:
    """Start everything during the block.

    Yields:
        The cluster, and a connection to Temporal past the links.
    """
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(folder / "postgres", port=free_port(), max_connections=300)
        temporal = OpenTemporal(
            folder / "temporal", ui=False, port=free_port(), search_attributes=SEARCH_ATTRIBUTES
        )
        kept: list[Kept] = [
            KeptServer("postgres", postgres, has_children=True),
            KeptServer("temporal", temporal, has_children=False),
        ]
        for server in kept:
            await stack.enter_async_context(server)
        example = await asyncio.to_thread(ExampleServer, folder)
        kept.append(await stack.enter_async_context(KeptProvisioner(example)))
        links = [
            await stack.enter_async_context(Link(name, port))
            for name, port in (
                ("postgres-link", postgres.port),
                ("temporal-link", temporal.port),
                ("provisioner-link", example.port),
            )
        ]
        to_postgres, to_temporal, to_provisioner = links
        common = {
            "TEMPORAL_ADDRESS": f"127.0.0.1:{to_temporal.port}",
            "TEMPORAL_HEARTBEAT_SECONDS": "5",
            "TERMINATION_GRACE_SECONDS": str(GRACE_SECONDS),
            "SWEEP_INTERVAL_SECONDS": "10",
            "CONTROL_PLANE_API_KEY": API_KEY,
            "PROVISIONER_API_URL": f"http://127.0.0.1:{to_provisioner.port}",
            "PROVISIONER_API_KEY": KEY,
            "PROVISIONER_POLL_SECONDS": "0.5",
            # Faults last up to a minute: the logs are worth waiting for.
            "PROVISIONER_LOG_PATIENCE_SECONDS": "600",
        }
        planes = []
        for name, state_folder, count in (
            ("process", folder / "workers", 2),
            ("external", example.state, 1),
        ):
            postgres.create_database(name)
            registry = RegistrySettings(
                postgres_host=postgres.host,
                postgres_port=postgres.port,
                postgres_user=postgres.user,
                postgres_password=SecretStr(postgres.password),
                postgres_db=name,
            )
            await asyncio.to_thread(upgrade, registry)
            ports = [free_port() for _ in range(count)]
            api = await stack.enter_async_context(Link(f"{name}-apis", *ports))
            plane = Plane(
                name=name,
                registry=registry,
                task_queue=f"chaos-{name}",
                state_folder=state_folder,
                api=api,
            )
            planes.append(plane)
            environment = {
                **environment_of(registry),
                **common,
                "POSTGRES_HOST": "127.0.0.1",
                "POSTGRES_PORT": str(to_postgres.port),
                "TEMPORAL_TASK_QUEUE": plane.task_queue,
                "CONTROL_PLANE_API_URL": f"http://127.0.0.1:{api.port}",
                "PROCESS_STATE_FOLDER": str(state_folder),
            }
            programs = [
                _api(plane, number, port, environment=environment, folder=folder)
                for number, port in enumerate(ports, start=1)
            ]
            programs += [
                _temporal_worker(plane, number + 1, environment=environment, folder=folder)
                for number in range(count)
            ]
            stack.push_async_callback(_clean_up, plane)
            kept += [await stack.enter_async_context(program) for program in programs]
            for port in ports:
                await asyncio.to_thread(wait_for, partial(_listens, port), seconds=60)
        temporal_client = await connect(TemporalSettings(temporal_address=temporal.address))
        yield Cluster(planes, kept, links), temporal_client


def _api(
    plane: Plane, number: int, port: int, *, environment: Mapping[str, str], folder: Path
) -> KeptProgram:
    def make(output: Path) -> Program:
        return Program(
            "api",
            f"--provisioner={plane.name}",
            "--host=127.0.0.1",
            f"--port={port}",
            environment=environment,
            folder=output,
        )

    return KeptProgram(f"{plane.name}-api-{number}", make, folder=folder)


def _temporal_worker(
    plane: Plane, number: int, *, environment: Mapping[str, str], folder: Path
) -> KeptProgram:
    def make(output: Path) -> Program:
        return Program(
            "worker", f"--provisioner={plane.name}", environment=environment, folder=output
        )

    return KeptProgram(f"{plane.name}-worker-{number}", make, folder=folder)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def _clean_up(plane: Plane) -> None:
    if plane.name == "process":
        await end_workers(plane.state_folder)
        shutil.rmtree(plane.state_folder, ignore_errors=True)
