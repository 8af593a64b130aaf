"""The documents name tests and files that exist."""

import re
from pathlib import Path

import control_plane
import pytest

from tests.support.repository import ROOT
from tests.support.sdk_reference import CHAPTERS, DOCUMENT, reference

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_table_of_rules_names_tests_that_exist() -> None:
    named = re.findall(r"([\w/]+\.py): `(test_\w+)`", (ROOT / "docs" / "behaviours.md").read_text())
    assert len(named) > 50
    missing = [
        f"{file}: {test}"
        for file, test in named
        if not re.search(rf"def {test}\b", (ROOT / "tests" / file).read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_reference_of_the_library_is_up_to_date_and_complete() -> None:
    assert DOCUMENT.read_text() == reference(), "run `make sdk-reference`"
    named = {name.partition(".")[2] for names in CHAPTERS.values() for name in names}
    assert set(control_plane.__all__) - named == set()


def test_the_worker_in_the_documents_is_that_of_the_examples() -> None:
    worker = (ROOT / "examples" / "shell_worker" / "worker.sh").read_text()
    assert f"```sh\n{worker}```" in (ROOT / "docs" / "workers.md").read_text()
