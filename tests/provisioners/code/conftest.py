"""A process provisioner with bundles in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provisioners.code.project_code import ProjectCode
from tests.support.provisioners.bundles_in_memory import Bundles
from tests.support.provisioners.process_backend import DEPLOYMENT, ProcessBackend


@pytest.fixture
def bundles() -> Bundles:
    return Bundles()


@pytest.fixture
async def backend(tmp_path: Path, bundles: Bundles) -> AsyncIterator[ProcessBackend]:
    backend = ProcessBackend(tmp_path)
    await backend.provisioner.start(DEPLOYMENT, bundles)
    yield backend
    await backend.close()


@pytest.fixture
def all_code(backend: ProcessBackend) -> Path:
    """That of all projects."""
    return backend.config.state_folder / DEPLOYMENT / "code"


@pytest.fixture
def code(all_code: Path) -> Path:
    """That of the project that the backend's requests name."""
    return ProjectCode.of(all_code, "project").folder
