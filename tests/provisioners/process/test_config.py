"""Where the process provisioner keeps its state: the environment, and who starts it, say so."""

from pathlib import Path

import pytest

from core.settings import SettingsError
from provisioners.process.config import ProcessProvisionerConfig
from provisioners.process.provisioner import ProcessProvisioner


@pytest.mark.parametrize(
    ("variable", "usual", "chosen"),
    [
        (None, None, "/var/tmp/control-plane"),  # noqa: S108 - only compared
        (None, "/data/workers", "/data/workers"),
        ("", "/data/workers", "/data/workers"),
        ("/operator", "/data/workers", "/operator"),
        ("/operator", None, "/operator"),
    ],
)
def test_the_operators_state_folder_comes_before_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, usual: str | None, chosen: str
) -> None:
    if variable is None:
        monkeypatch.delenv("PROCESS_STATE_FOLDER", raising=False)
    else:
        monkeypatch.setenv("PROCESS_STATE_FOLDER", variable)
    config = ProcessProvisionerConfig.from_environment(
        usual_state_folder=None if usual is None else Path(usual)
    )
    assert config.state_folder == Path(chosen)


def test_under_up_it_is_a_folder_of_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path | None] = []

    def note(*, usual_state_folder: Path | None = None) -> ProcessProvisionerConfig:
        asked.append(usual_state_folder)
        return ProcessProvisionerConfig(state_folder=tmp_path)

    monkeypatch.setattr(ProcessProvisionerConfig, "from_environment", note)

    ProcessProvisioner.from_environment()
    ProcessProvisioner.from_environment(data_folder=Path("/data"))

    assert asked == [None, Path("/data/workers")]


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(None, False), ("", False), ("no", False), ("0", False), ("yes", True), ("1", True)],
)
def test_the_operator_allows_builds(
    monkeypatch: pytest.MonkeyPatch, value: str | None, *, allowed: bool
) -> None:
    monkeypatch.delenv("CONTROL_PLANE_ALLOW_BUILDS", raising=False)
    if value is not None:
        monkeypatch.setenv("CONTROL_PLANE_ALLOW_BUILDS", value)
    assert ProcessProvisionerConfig.from_environment().allow_builds is allowed


def test_any_other_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_ALLOW_BUILDS", "maybe")
    with pytest.raises(SettingsError, match="CONTROL_PLANE_ALLOW_BUILDS"):
        ProcessProvisionerConfig.from_environment()
