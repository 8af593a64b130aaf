import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.provisioner_kinds import UnknownProvisionerError, find_kind, installed_kinds
from provisioners.catalog import load_provisioner_class
from provisioners.process.provisioner import ProcessProvisioner

_MODULE = "a_plugin_of_the_catalog_tests"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution with one good provisioner and three broken ones."""
    information = tmp_path / "plugins-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[control_plane.provisioners]\n"
        f"Good = {_MODULE}:Good\n"
        "alias = provisioners.process.provisioner:ProcessProvisioner\n"
        "missing = no_such_module_anywhere:Provisioner\n"
        "wrong = pathlib:Path\n"
    )
    (tmp_path / f"{_MODULE}.py").write_text(
        "from provisioners.process.provisioner import ProcessProvisioner\n"
        "class Good(ProcessProvisioner):\n"
        "    kind = 'good'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(_MODULE, None)


def test_names_are_lower_case() -> None:
    assert load_provisioner_class("Process") is ProcessProvisioner
    name, _ = find_kind("PROCESS")
    assert name == "process"


@pytest.mark.usefixtures("plugins")
def test_plugins_are_found_without_loading_them() -> None:
    kinds = list(installed_kinds())
    assert {"alias", "external", "good", "missing", "process", "wrong"} <= set(kinds)
    assert kinds == sorted(kinds)
    assert _MODULE not in sys.modules
    assert load_provisioner_class("good").kind == "good"


@pytest.mark.usefixtures("plugins")
def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownProvisionerError, match=r"Available: .*good.*process"):
        load_provisioner_class("nonsense")


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("kind", ["missing", "wrong"])
def test_a_broken_plugin_says_why(kind: str) -> None:
    with pytest.raises(UnknownProvisionerError, match="cannot be loaded"):
        load_provisioner_class(kind)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_calls_itself_otherwise_is_refused() -> None:
    with pytest.raises(UnknownProvisionerError, match=r"'alias' .* calls itself 'process'"):
        load_provisioner_class("alias")
