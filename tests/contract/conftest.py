import pytest

from tests.support.existing_client.connection import Connection
from tests.support.harness import ControlPlane


@pytest.fixture
def connection(control_plane: ControlPlane) -> Connection:
    return Connection(control_plane.http)
