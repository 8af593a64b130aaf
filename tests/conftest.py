"""Fixtures: a database and a task queue per test, on servers that the whole session shares."""

import gc
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
from temporalio.client import Client

from core.settings import RegistrySettings, TemporalSettings
from core.temporal.client import connect
from registry.database.engine import Registry
from tests.support.folders import open_to_all
from tests.support.harness import ControlPlane, running_control_plane
from tests.support.servers import TEMPLATE_DATABASE, Addresses, Servers, fresh_database

_SERVERS = pytest.StashKey[Servers]()
_FOLDER = pytest.StashKey[str]()
_LONG_FIRST = ("e2e", "proofs", "workflows", "contract", "worker", "standalone")
"""The folders with long tests. With them at the end, one process would work on when others rest."""


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts its background jobs with SIGINT ignored, and the commands that tests start
    # would inherit that: none of them would end at a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_SERVERS] = Servers()
    if config.option.basetemp is None:
        # The usual folder is closed to other users again by each session that begins, also by one
        # beside this one; and functions of tests that root runs are other users.
        config.option.basetemp = config.stash[_FOLDER] = tempfile.mkdtemp(prefix="cp-t-")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """xdist is about to start a worker process: hand it the servers' addresses."""
    servers: Servers = node.config.stash[_SERVERS]  # type: ignore[attr-defined] # no types
    node.workerinput["servers"] = servers.start()  # type: ignore[attr-defined] # no types


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = config.rootpath / "tests"

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        return _LONG_FIRST.index(folder) if folder in _LONG_FIRST else len(_LONG_FIRST)

    # Tests of the same rank stay in their order.
    items.sort(key=rank)


def pytest_collection_finish(session: pytest.Session) -> None:
    del session
    # Modules and tests stay until the end: no collection need look through them.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    folder = session.config.stash.get(_FOLDER, None)
    # After a failure it may tell why.
    if folder is not None and exitstatus == 0:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_SERVERS].stop()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Addresses:
    workerinput = getattr(request.config, "workerinput", None)
    if workerinput is not None:
        return cast("Addresses", workerinput["servers"])
    return request.config.stash[_SERVERS].start()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder that functions may write to, whatever user they are."""
    return open_to_all(tmp_path)


@pytest.fixture
def registry_settings(servers: Addresses) -> Iterator[RegistrySettings]:
    """A migrated, empty database of this test's own."""
    with fresh_database(servers, template=TEMPLATE_DATABASE) as settings:
        yield settings


@pytest.fixture
async def registry(registry_settings: RegistrySettings) -> AsyncIterator[Registry]:
    registry = Registry(registry_settings)
    yield registry
    await registry.close()


@pytest.fixture
def task_queue() -> str:
    """A prefix of task queues of this test's own."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def temporal_settings(servers: Addresses, task_queue: str) -> TemporalSettings:
    return TemporalSettings(
        temporal_address=servers["temporal_address"],
        temporal_task_queue=task_queue,
        temporal_heartbeat_seconds=2,
    )


@pytest.fixture
async def temporal_client(temporal_settings: TemporalSettings) -> Client:
    return await connect(temporal_settings)


@pytest.fixture
async def control_plane(
    registry: Registry, temporal_client: Client, task_queue: str
) -> AsyncIterator[ControlPlane]:
    """API and Temporal worker over a scripted provisioner, in this process."""
    async with running_control_plane(registry, temporal_client, task_queue) as running:
        yield running
