"""What documents, docstrings and comments name: files, folders and modules of this repository."""

import re
from pathlib import Path
from typing import Final

from tests.support.repository import ROOT

CODE: Final = (
    *("activities", "api", "core", "provisioners", "registry", "runtime"),
    *("standalone", "worker", "workflows"),
)
"""The packages of the server."""
FOLDERS: Final = (*CODE, "bench", "docs", "environment", "examples", "sdk", "tests")

DOCUMENTS: Final = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "sdk/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)

MODULES: Final = sorted(
    path
    for top in (*CODE, "bench", "examples", "sdk", "tests")
    for path in (ROOT / top).rglob("*.py")
)
"""All files of Python."""

_SUFFIXES: Final = "py|md|sh|yml"
"""Of files that are named without their folder."""


def name_of(path: Path) -> str:
    """Give a path as documents name it."""
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """Give a document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def in_backticks(text: str) -> list[str]:
    """Give what stands in backticks within lines."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def missing_paths(text: str, *, below_tests: bool = False) -> set[str]:
    """Find paths that begin with a folder of this repository, and lead nowhere.

    Looks into blocks of code, too. What stands for a name (`<kind>`) ends a path.

    Args:
        text: a document, or code.
        below_tests: whether paths may also begin with a folder of `tests/`.
    """
    bases = {ROOT: set(FOLDERS)}
    if below_tests:
        tests = ROOT / "tests"
        bases[tests] = {path.parent.name for path in tests.glob("*/__init__.py")}
    folders = "|".join(set.union(*bases.values()))
    found = re.findall(rf'(?<![\w/.<>~"-])(?:{folders})/[\w./-]*', text)
    paths = {path.rstrip(".-") for path in found}
    return {path for path in paths if not any((base / path).exists() for base in bases)}


def missing_files(text: str) -> set[str]:
    """Find names of files in backticks, without a folder, that no file here has."""
    names = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    names |= {path.name for path in ROOT.iterdir()}
    named = {name for name in in_backticks(text) if re.fullmatch(rf"\w[\w-]*\.({_SUFFIXES})", name)}
    return named - names


def missing_modules(text: str) -> set[str]:
    """Find dotted names in backticks that neither a module has nor what a module defines."""
    packages = "|".join((*CODE, "bench", "tests", "control_plane"))
    named = {
        name
        for name in in_backticks(text)
        if re.fullmatch(rf"(?:{packages})(?:\.[A-Za-z_]\w*)+", name)
        and not name.endswith((".json", ".log", ".toml", ".md", ".sh"))
    }
    return {name for name in named if not _is_there(name)}


def _is_there(name: str) -> bool:
    parts = name.split(".")
    place = ROOT / "sdk" if parts[0] == "control_plane" else ROOT
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    module = place / "__init__.py"
    if parts and (place / f"{parts[0]}.py").exists():
        module = place / f"{parts.pop(0)}.py"
    if not parts:
        return True
    definition = rf"^(?:(?:async )?def |class )?{parts[0]}\b"
    return re.search(definition, module.read_text(), flags=re.MULTILINE) is not None
