from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.provisioners.process_backend import DEPLOYMENT, ProcessBackend


@pytest.fixture
async def process_backend(tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    backend = ProcessBackend(tmp_path)
    await backend.provisioner.start(DEPLOYMENT)
    yield backend
    await backend.close()
