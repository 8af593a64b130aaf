"""What the caller of a stack chooses."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What the caller chooses."""

    data_folder: Path
    provisioner: str = "process"
    host: str = "127.0.0.1"
    api_port: int = 5000
    """0 for any free port."""
    certificate: tuple[Path, Path] | None = None
    """Files of the certificate and of its key, to serve HTTPS with; None: plain HTTP."""
    temporal_open: bool = False
    """Whether everybody on this machine may reach the embedded Temporal, by its ports."""
    temporal_port: int | None = None
    """Of an open one; None for 7233 if it is free, else any free port."""
    temporal_ui_port: int | None = None
    """None for 8233 if it is free, else any free port."""
    durable: bool = True
    """False trades the data's safety for quick starts and stops: for demonstrations."""
    has_log_file: bool = False
    """Whether its log goes to a file in the data folder, and only what is wrong to stderr, too."""
    is_self_contained: bool = False
    """Whether Postgres, Temporal and bundles are its own, even where variables name others."""
    is_for_others: bool = True
    """Whether other programs of this user may find it by its data folder (`running_server`)."""
