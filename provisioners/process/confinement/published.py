"""Copies of what workers are run with, where workers of all users can read them.

The installed packages may be below a folder that is closed to others, and the shim is compiled once
for all starts: compiling takes as long as all the rest of its start.
"""

import compileall
import hashlib
import os
import py_compile
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from provisioners.process import programs

_EXECUTED = ("shim", "keeper")
"""Programs that the server's interpreter executes: it looks for no compiled copy of these."""


def publish_programs(root: Path) -> Path:
    """Put the programs of this package into a folder of the state folder; give that."""
    source = Path(next(iter(programs.__path__)))
    files = sorted(path for path in source.glob("*.py") if path.stem != "__init__")
    return _publish(root, "programs", files, source, compiled=True)


def publish_sdk(root: Path, package: Path) -> Path:
    """Put the SDK into a folder of the state folder, as the only package there; give that."""
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".typed"))
    return _publish(root, "sdk", files, package.parent, compiled=False)


def _publish(root: Path, name: str, files: list[Path], base: Path, *, compiled: bool) -> Path:
    target = root / f"{name}-{_digest(files, base)}"
    if target.is_dir():
        return target
    fresh = root / f".{name}-{secrets.token_hex(8)}"
    for file in files:
        copy = fresh / file.relative_to(base)
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if compiled:
        for stem in _EXECUTED:
            py_compile.compile(str(fresh / f"{stem}.py"), str(fresh / f"{stem}.pyc"), doraise=True)
    compileall.compile_dir(fresh, quiet=2)
    for folder, _, names in os.walk(fresh):
        Path(folder).chmod(0o755)
        for file_name in names:
            Path(folder, file_name).chmod(0o644)
    try:
        fresh.rename(target)
    except OSError:
        # Another process was faster.
        shutil.rmtree(fresh)
    return target


def _digest(files: Iterable[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(base)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
