import pytest

from tests.client.connection import Connection
from tests.harness import ControlPlane


@pytest.fixture
def connection(control_plane: ControlPlane) -> Connection:
    return Connection(control_plane.http)
