from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.folders import server_folder


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: pytest's own are closed to a server that root starts."""
    with server_folder("standalone") as folder:
        yield folder
