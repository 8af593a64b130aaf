from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from provisioners.conformance import NoBundles
from provisioners.external.provisioner import ExternalProvisioner
from tests.support.provisioners.external_requests import provisioner_at
from tests.support.provisioners.http_peer import HttpPeer
from tests.support.provisioners.process_backend import DEPLOYMENT, ProcessBackend
from tests.support.provisioners.warm_backend import WarmBackend


@pytest.fixture
async def process_backend(tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    backend = ProcessBackend(tmp_path)
    await backend.provisioner.start(DEPLOYMENT, NoBundles())
    yield backend
    await backend.close()


@pytest.fixture
async def warm_backend(tmp_path: Path) -> AsyncIterator[WarmBackend]:
    backend = WarmBackend(tmp_path)
    await backend.provisioner.start(DEPLOYMENT, NoBundles())
    yield backend
    await backend.close()


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with HttpPeer() as peer:
        yield peer


@pytest.fixture
async def external(peer: HttpPeer) -> AsyncIterator[ExternalProvisioner]:
    provisioner = provisioner_at(peer.url, log_patience_seconds=0.2)
    await provisioner.start("test", NoBundles())
    yield provisioner
    await provisioner.close()
