"""Rule ENV-1: settings from the environment."""

import pytest

from core.settings import ApiKeySettings, RegistrySettings, SettingsError, load


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTROL_PLANE_API_KEY", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POSTGRES_USER", "user")
    monkeypatch.setenv("POSTGRES_PASSWORD", "password")


def test_env_1_a_mandatory_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", "butterflyburger")
    key = load(ApiKeySettings).control_plane_api_key
    assert key.get_secret_value() == "butterflyburger"


@pytest.mark.parametrize("value", [None, ""])
def test_env_1_an_absent_mandatory_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("CONTROL_PLANE_API_KEY", value)
    with pytest.raises(SettingsError) as caught:
        load(ApiKeySettings)
    assert str(caught.value) == "Environment variable CONTROL_PLANE_API_KEY not found"


def test_env_1_an_absent_optional_variable_has_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POSTGRES_DB", "db")
    settings = load(RegistrySettings)
    assert (settings.postgres_host, settings.postgres_port) == ("localhost", 5432)
