"""The documents agree with the code, with the tests, and with each other."""

import re
from collections import Counter
from pathlib import Path
from typing import Final

import control_plane
import pytest

from tests.support.naming import CODE, DOCUMENTS, in_backticks, name_of, prose
from tests.support.repository import ROOT
from tests.support.sdk_reference import CHAPTERS, DOCUMENT, reference

INDEX: Final = ROOT / "docs" / "README.md"


def test_the_table_of_rules_names_tests_that_exist() -> None:
    named = re.findall(r"([\w/]+\.py): `(test_\w+)`", (ROOT / "docs" / "behaviours.md").read_text())
    assert len(named) > 50
    missing = [
        f"{file}: {test}"
        for file, test in named
        if not re.search(rf"def {test}\b", (ROOT / "tests" / file).read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    lost = []
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text()):
        target = document.parent / link if link else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            lost.append(f"{link}#{anchor}")
    assert lost == []


def _anchors(document: Path) -> set[str]:
    """Give the anchors that GitHub makes of headings."""
    count: Counter[str] = Counter()
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(document.read_text()), flags=re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{words}-{count[words]}" if count[words] else words)
        count[words] += 1
    return anchors


def test_the_index_names_every_document_and_nothing_that_is_not_there() -> None:
    text = INDEX.read_text()
    linked = set(re.findall(r"\]\(([\w./-]+)(?:#[^)]*)?\)", text))
    documents = {path.name for path in INDEX.parent.glob("*.md")} - {INDEX.name}
    assert documents - linked == set()
    paths = [name for name in in_backticks(text) if "/" in name or name.endswith(".py")]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_of_the_code_names_every_package() -> None:
    """The map in docs/architecture.md: a new package is drawn there, too."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    (block,) = re.findall(r"## Where code lives\n.*?```\n(.*?)```", text, flags=re.DOTALL)
    drawn: set[str] = set()
    around: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( *)(\S+)/ ", block, flags=re.MULTILINE):
        around = [(depth, folder) for depth, folder in around if depth < len(indent)]
        path = f"{around[-1][1]}/{name}" if around else name
        around.append((len(indent), path))
        drawn.add(path)
    assert [path for path in sorted(drawn) if not (ROOT / path).is_dir()] == []
    packages = {
        name_of(path.parent)
        for top in (*CODE, "sdk/control_plane")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert packages - drawn == {"registry/migrations/versions"}


def test_contributors_are_told_of_every_folder_of_tests() -> None:
    """The table in CONTRIBUTING.md; a folder may stand for those in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+)/`", text))
    untold = set()
    for test in (ROOT / "tests").rglob("test_*.py"):
        folders = {name_of(folder) for folder in (test.parent, test.parent.parent)}
        rooms = {room for room in named if room.startswith(f"{name_of(test.parent)}/")}
        if not (folders & named or rooms):
            untold.add(name_of(test.parent))
    assert untold == set()


def test_contributors_are_told_the_tests_of_rooms_without_a_folder_of_tests() -> None:
    """The other table in CONTRIBUTING.md: for them the rule leads to a folder that is too large."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = re.findall(r"^\| if you change \|.*\n(?:\|.*\n)+", text, flags=re.MULTILINE)
    named = {name for row in table.splitlines() for name in in_backticks(row.split("|")[1])}
    rooms = {
        f"{name_of(path.parent)}/"
        for top in CODE
        for path in (ROOT / top).rglob("__init__.py")
        if not (ROOT / "tests" / path.parent.relative_to(ROOT)).is_dir()
    }
    assert len(rooms) > 3
    assert rooms - named == {"registry/migrations/versions/"}


def test_contributors_are_told_of_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = re.findall(r"^\| target \|.*\n(?:\|.*\n)+", text, flags=re.MULTILINE)
    told = {name for row in table.splitlines() for name in in_backticks(row.split("|")[1])}
    assert told ^ set(targets) == {"help"}


def test_the_reference_of_the_library_is_up_to_date_and_complete() -> None:
    assert DOCUMENT.read_text() == reference(), "run `make sdk-reference`"
    named = {name.rpartition(".")[2] for names in CHAPTERS.values() for name in names}
    assert set(control_plane.__all__) - named == set()


def test_the_worker_in_the_documents_is_that_of_the_examples() -> None:
    worker = (ROOT / "examples" / "shell_worker" / "worker.sh").read_text()
    assert f"```sh\n{worker}```" in (ROOT / "docs" / "workers.md").read_text()
