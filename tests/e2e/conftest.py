from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.settings import RegistrySettings
from tests.support.folders import open_to_all, server_folder
from tests.support.servers import TEMPLATE_DATABASE, Addresses, fresh_database
from tests.support.stack.stack import Stack, environment_for


@pytest.fixture(scope="session")
def stack(servers: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that all tests share which leave its two processes alone."""
    with fresh_database(servers, template=TEMPLATE_DATABASE) as settings, ExitStack() as exits:
        running = Stack(
            open_to_all(tmp_path_factory.mktemp("stack")), environment_for(settings, servers)
        )
        exits.callback(running.close)
        yield running


@pytest.fixture
def own_stack(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> Iterator[Stack]:
    """A stack whose processes a test may kill."""
    running = Stack(tmp_path, environment_for(registry_settings, servers))
    yield running
    running.close()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file for which functions wait; a test makes it to let them go on."""
    return tmp_path / "gate"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: pytest's own are closed to a server that root starts."""
    with server_folder("e2e") as folder:
        yield folder


@pytest.fixture
def write_project(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes a project folder from the texts of its files."""

    def write(files: dict[str, str]) -> Path:
        folder = tmp_path / "project"
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return write
