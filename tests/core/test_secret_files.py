"""Secrets from files, by `NAME_FILE` beside each `NAME`; and none is left in the environment."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.secret_files import MAX_SECRET_BYTES, forget_secrets
from core.settings import (
    ApiKeySettings,
    ApiSettings,
    RegistrySettings,
    Settings,
    SettingsError,
    load,
)
from provisioners.external.settings import ExternalProvisionerSettings

VARIABLE = "CONTROL_PLANE_API_KEY"
SECRET = "a-secret-that-no-error-may-show"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("CONTROL_PLANE_", "POSTGRES_", "PROVISIONER_", "CONTAINER_")):
            monkeypatch.delenv(name)
    for name in ("POSTGRES_DB", "POSTGRES_USER"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PROVISIONER_API_URL", "http://127.0.0.1:1")


def load_key(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = folder / "secret"
    file.write_bytes(content)
    monkeypatch.setenv(f"{VARIABLE}_FILE", str(file))
    return load(ApiKeySettings).control_plane_api_key.get_secret_value()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (RegistrySettings, "postgres_password"),
        (ApiKeySettings, "control_plane_api_key"),
        (ApiKeySettings, "control_plane_api_key_previous"),
        (ApiKeySettings, "control_plane_token_secret"),
        (ApiSettings, "container_repository_password"),
        (ExternalProvisionerSettings, "provisioner_api_key"),
    ],
)
def test_each_secret_may_stand_in_a_file_and_leaves_the_environment(
    settings: type[Settings], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settings is ApiKeySettings:
        monkeypatch.setenv(VARIABLE, "the-key-itself-is-required")
    monkeypatch.setenv(name.upper(), SECRET)
    assert getattr(load(settings), name) == SecretStr(SECRET)
    forget_secrets()
    assert SECRET not in os.environ.values()

    if settings is ApiKeySettings and name.upper() != VARIABLE:
        monkeypatch.setenv(VARIABLE, "the-key-itself-is-required")
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv(f"{name.upper()}_FILE", str(file))
    assert getattr(load(settings), name) == SecretStr(SECRET)


@pytest.mark.parametrize("content", [b"  a key \n", b"  a key \r\n", b"  a key "])
def test_one_end_of_a_line_is_no_part_of_the_secret(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_key(content, tmp_path, monkeypatch) == "  a key "


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"x" * (MAX_SECRET_BYTES + 1), f"has more than {MAX_SECRET_BYTES} bytes"),
        (SECRET.encode() + b"\xff", "is no UTF-8 text"),
    ],
    ids=["empty", "blank", "large", "bytes"],
)
def test_a_file_that_is_no_secret_is_named_by_its_variable(
    content: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_key(content, tmp_path, monkeypatch)
    expected = f"The file that environment variable {VARIABLE}_FILE names {problem}"
    assert str(caught.value) == expected
    assert caught.value.__cause__ is None


def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe without a writer would hang, and /dev/zero has no end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, problem in (
        (tmp_path / "missing", "cannot be read: No such file or directory"),
        (tmp_path, "is no plain file"),
        (pipe, "is no plain file"),
        (Path("/dev/zero"), "is no plain file"),
    ):
        monkeypatch.setenv(f"{VARIABLE}_FILE", str(path))
        with pytest.raises(SettingsError, match=problem):
            load(ApiKeySettings)


def test_two_places_for_one_secret_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(SettingsError) as caught:
        load_key(b"another", tmp_path, monkeypatch)
    assert str(caught.value) == (
        f"Environment variables {VARIABLE} and {VARIABLE}_FILE are both set: set one of them"
    )


def test_a_secret_that_does_not_fit_is_named_by_the_variable_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text("no header\twith this")
    monkeypatch.setenv("PROVISIONER_API_KEY_FILE", str(file))
    with pytest.raises(SettingsError, match="PROVISIONER_API_KEY_FILE is invalid: "):
        load(ExternalProvisionerSettings)
