"""Where the standalone stack keeps its data, and the API key in it."""

import os
import secrets
from pathlib import Path

from standalone.errors import DataFolderError


def default_data_folder() -> Path:
    """Choose the data folder when none is named.

    Root's is not in root's home: the embedded Postgres runs as another user, who could not get
    there.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/control-plane")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "control-plane"


def make_data_folder(folder: Path) -> Path:
    """Make the folder if need be; returns its real path.

    Others may pass through (the embedded Postgres runs as another user when root starts us), but
    not look around: each part in it has its own mode.

    Raises:
        DataFolderError: it cannot be made or used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise DataFolderError(
            f"The data folder {folder} cannot be used: {error.strerror}"
        ) from error
    return folder


def read_or_make_api_key(folder: Path) -> tuple[str, Path]:
    """Give the API key of this data folder and the file (mode 0600) that holds it."""
    path = folder / "api-key"
    if not path.exists():
        draft = folder / f".api-key.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        draft.replace(path)
    return path.read_text().strip(), path
