"""Folders that hold what programs of others have made."""

import os
import shutil
from contextlib import suppress
from pathlib import Path


def delete_tree(folder: Path) -> None:
    """Delete a folder that holds whatever a program made of it."""
    for path, _, _ in os.walk(folder):
        # Programs make read-only folders (package caches do), which would keep their content.
        with suppress(OSError):
            Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
