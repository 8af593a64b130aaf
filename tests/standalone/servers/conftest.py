import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: pytest's own are closed to a server that root starts."""
    folder = Path(tempfile.mkdtemp(prefix="standalone-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)
