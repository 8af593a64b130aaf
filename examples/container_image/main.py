"""Says where it runs: proof that a function sees the image, not the machine of the server."""

import os
import platform
import time
from pathlib import Path

from control_plane import InvocationCancelled, function


@function(memory="128 MiB", timeout=60)
def where() -> dict[str, str]:
    """Name the system, the Python and the user that this function got."""
    return {
        "system": system_name(Path("/etc/os-release")),
        "python": platform.python_version(),
        "project": str(Path(__file__).parent),
        "user": str(os.getuid()),
    }


@function(memory="128 MiB", timeout=3600)
def wait(seconds: float) -> str:
    """Wait, and say goodbye when cancelled: the signal reaches a function in a container, too."""
    try:
        print("waiting")
        time.sleep(seconds)
    except InvocationCancelled:
        print("goodbye")
        raise
    return f"waited for {seconds} seconds"


def system_name(os_release: Path) -> str:
    for line in os_release.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return "unknown"
