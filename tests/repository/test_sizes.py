"""Files and folders stay small enough to be read: the limits that CONTRIBUTING.md names."""

from typing import Final

from tests.support.naming import CODE, MODULES, name_of
from tests.support.repository import ROOT

MOST_LINES: Final = 450
MOST_FILES: Final = 14
"""In one folder of a server package, `__init__.py` aside."""
GROWS: Final = "registry/migrations/versions"
"""It gets a file with each change of the schema, for ever, and is read one file at a time."""


def test_no_file_is_longer_than_can_be_read() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_folder_of_the_server_holds_more_files_than_can_be_seen_at_once() -> None:
    folders = {path.parent for top in CODE for path in (ROOT / top).rglob("*.py")}
    files = {
        name_of(folder): len([path for path in folder.glob("*.py") if path.stem != "__init__"])
        for folder in folders
    }
    assert len(files) > 20
    del files[GROWS]
    assert {name: count for name, count in files.items() if count > MOST_FILES} == {}


def test_contributors_are_told_these_limits() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"to {MOST_LINES} lines" in text
    assert f"to {MOST_FILES} files" in text
