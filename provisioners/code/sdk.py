"""The SDK, as programs that run code bundles find it, and the interpreter that runs it."""

import importlib.util
import sys
from pathlib import Path

DISTRIBUTION = "control-plane-sdk"
"""Its name for installers. It is never installed for a bundle: each worker has it."""


def runner_in(sdk_home: Path) -> Path:
    """Name the program that runs Python functions."""
    return sdk_home / "control_plane" / "runner" / "__main__.py"


def base_python() -> Path:
    """Find the interpreter that the server's virtual environment was made from."""
    # typeshed does not list it; the standard library's venv module relies on it.
    base: str = getattr(sys, "_base_executable", None) or sys.executable
    return Path(base).resolve()


def installed_sdk() -> Path | None:
    """Find the installed package `control_plane` without importing it."""
    spec = importlib.util.find_spec("control_plane")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
