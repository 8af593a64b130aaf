"""The SDK, as programs that run code bundles find it, and the interpreter that runs it."""

import compileall
import importlib.util
import os
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


def link_sdk(home: Path, package: Path) -> Path:
    """Make the folder `home` hold the package `control_plane` and nothing else; return it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = home / "control_plane"
    if link.is_symlink() and link.readlink() == package:
        return home
    fresh = home / f".control_plane-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(package)
    fresh.replace(link)
    return home


def compile_sdk(package: Path) -> None:
    """Compile once what each worker would compile by itself, as it cannot write there.

    Where this process cannot write either, an installer has done it, as a rule. Without it a
    worker starts some 30 ms later.
    """
    compileall.compile_dir(package, quiet=2)
