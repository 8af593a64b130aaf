"""Which server is meant: arguments, the environment, the file."""

import os
import tomllib
from pathlib import Path

import pytest
from control_plane._http.client import Client
from control_plane._http.profiles import (
    Profile,
    Profiles,
    find_server,
    load_profiles,
    profiles_file,
    save_profiles,
)
from control_plane.errors import ConfigurationError

HOME = Profile(url="http://home.example:8000", key="home's key")
WORK = Profile(url="https://office.example/base", key="work's key")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variables but a folder for the file."""
    for name in list(os.environ):
        if name.startswith("CONTROL_PLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_file_is_written_for_its_owner_only_and_read_again(folder: Path) -> None:
    assert load_profiles() == Profiles()
    odd = Profile(url="http://x", key='quote " backslash \\ delete \x7f emoji 😀')
    profiles = Profiles().with_profile("home", HOME).with_profile("a b.c", odd, as_default=False)
    path = save_profiles(profiles)
    assert path == folder / "control-plane" / "config.toml" == profiles_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_profiles() == profiles
    assert tomllib.loads(path.read_text())["default"] == "home"
    path.chmod(0o644)
    save_profiles(profiles.without_profile("home"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_profiles() == Profiles(profiles={"a b.c": odd})
    assert [each.name for each in path.parent.iterdir()] == ["config.toml"]


def test_relative_folder_for_files_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", "/somebody")
    assert profiles_file() == Path("/somebody/.config/control-plane/config.toml")


def test_arguments_then_environment_then_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save_profiles(Profiles().with_profile("work", WORK).with_profile("home", HOME))
    assert find_server() == HOME
    assert find_server(profile="work") == WORK
    monkeypatch.setenv("CONTROL_PLANE_PROFILE", "work")
    assert find_server() == WORK
    monkeypatch.setenv("CONTROL_PLANE_API_URL", "http://environment/")
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", "environment's")
    assert find_server() == Profile(url="http://environment", key="environment's")
    assert find_server(profile="home") == HOME
    assert find_server("http://argument", "argument's") == Profile(
        url="http://argument", key="argument's"
    )
    assert Client().url == "http://environment"


def test_key_of_a_profile_goes_to_its_own_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    save_profiles(Profiles().with_profile("home", HOME))
    assert find_server("http://home.example:8000/") == HOME
    with pytest.raises(ConfigurationError, match="No key for http://elsewhere"):
        find_server("http://elsewhere")
    with pytest.raises(ConfigurationError, match="No key for http://elsewhere"):
        find_server("http://elsewhere", profile="home")
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", "mine")
    assert find_server().key == "mine"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("profiles = 3", "cannot be read"),
        ("[profiles.a]\nurl = 'http://x'", "a profile has no 'key'"),
        ("[profiles.a]\nurl = 3\nkey = 'x'", "3 is no text"),
        ("= ", "cannot be read"),
    ],
)
def test_unreadable_file_is_named(text: str, complaint: str) -> None:
    path = save_profiles(Profiles())
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        find_server()
    assert str(path) in str(caught.value)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigurationError, match="Which server"):
        find_server()
    with pytest.raises(ConfigurationError, match="no profile 'x'"):
        find_server(profile="x")
    with pytest.raises(ConfigurationError, match="'ftp://x' is no http or https address"):
        find_server("ftp://x", "key")
    with pytest.raises(ConfigurationError, match="no key has"):
        find_server("http://x", "line\nbreak")
    assert "key" not in repr(Profile(url="http://x", key="secret")).replace("keys", "")
