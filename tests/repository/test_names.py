"""Documents, docstrings and comments name files and modules that exist."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.naming import (
    DOCUMENTS,
    MODULES,
    missing_files,
    missing_modules,
    missing_paths,
    name_of,
)
from tests.support.repository import ROOT

HISTORY: Final = ROOT / "docs" / "adr"
"""Decisions keep the names that things had when they were taken."""
CURRENT: Final = [path for path in DOCUMENTS if path.parent != HISTORY or path.name == "README.md"]
BELOW_TESTS: Final = ("behaviours.md", "reliability.md")
"""Documents that name tests by their place below `tests/`."""

OTHER_FILES: Final = [
    *(ROOT / name for name in ("Dockerfile", "Makefile", "docker-compose.yml", "pyproject.toml")),
    *(ROOT / ".github").rglob("*.yml"),
    *(ROOT / "environment").iterdir(),
]

NOT_HERE: Final = {
    "bench/results": "made by `make bench`",
    "bench/results/full.json": "written by `make bench-full`",
    "bench/results/latest.json": "written by `make bench`",
    "docs/deploying.md": "an old name, in the changelog",
    "docs/deployment.md": "an old name, in the changelog",
    "docs/run.md": "an old name, in the changelog",
    "ask.py": "a file of the reader's, in the tutorial",
    "FILE.py": "stands for a file of the reader's",
    "provisioners/docker/": "where a Docker provisioner would go",
    "provisioners/mykind/": "where a reader's provisioner goes",
    "tests/provisioners/docker/": "where the tests of a Docker provisioner would go",
    "NNNN_why_an_invocation_waits.py": "an example of a migration's name",
}
NO_MODULES: Final = {
    "control_plane.provisioners": "a group of entry points",
}


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_documents_name_what_exists(document: Path) -> None:
    text = document.read_text()
    files = missing_paths(text, below_tests=document.name in BELOW_TESTS) | missing_files(text)
    assert files - set(NOT_HERE) == set()
    assert missing_modules(text) - set(NO_MODULES) == set()


def test_code_names_what_exists() -> None:
    missing = []
    for path in (*MODULES, *OTHER_FILES):
        text = path.read_text()
        names = (missing_paths(text) - set(NOT_HERE)) | (missing_modules(text) - set(NO_MODULES))
        missing += [f"{name_of(path)}: {name}" for name in sorted(names)]
    assert missing == []
