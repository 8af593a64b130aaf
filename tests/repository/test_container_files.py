"""Dockerfile, .dockerignore and docker-compose.yml agree with the code."""

import inspect
import json
import re
import tomllib
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # has no types
from pydantic_settings import BaseSettings

from core import settings
from provisioners.external import settings as external
from provisioners.process import config as process
from standalone.temporal.dev_server import SERVER_SETTINGS
from tests.support.repository import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = ("migrate", "api", "worker")


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    return found


def test_the_image_gets_every_package_and_no_environment_file() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    files = {"LICENSE", "README.md", "pyproject.toml", "requirements.lock"}
    assert let_through == packages | files | {"sdk"}


def test_no_secret_has_a_default_in_the_compose_file() -> None:
    """It is asked for by name, or empty."""
    used = re.findall(r"\$\{(\w*(?:PASSWORD|KEY|SECRET)\w*)(.*?)\}", COMPOSE)
    assert {name for name, _ in used} >= {"POSTGRES_PASSWORD", "CONTROL_PLANE_API_KEY"}
    assert [name for name, rest in used if not (rest.startswith(":?") or rest == ":-")] == []
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|PWD|KEY|SECRET", name):
                assert value.startswith("${"), name


def test_our_services_get_settings_that_exist() -> None:
    known = {
        field.upper()
        for module in (settings, external, process)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, BaseSettings)
        for field in cls.model_fields
    }
    given = {name for ours in OURS for name in services()[ours]["environment"]}
    assert given - known == {"CONTROL_PLANE_PROVISIONER"}
    commands = PROJECT["project"]["entry-points"]["control_plane.commands"]
    assert [name for name in OURS if services()[name]["command"][0] not in commands] == []


def test_our_services_get_longer_to_stop_than_they_take() -> None:
    """Docker gives 10 s if nobody says how long; open requests get 30."""
    seconds = {name: int(services()[name]["stop_grace_period"][:-1]) for name in ("api", "worker")}
    assert seconds["api"] > 30
    assert seconds["worker"] >= 30


def test_temporal_gets_the_same_settings_as_the_embedded_one() -> None:
    temporal = services()["temporal"]
    inside = temporal["environment"]["DYNAMIC_CONFIG_FILE_PATH"]
    (mounted,) = temporal["volumes"]
    source = mounted.removesuffix(f":{inside}:ro")
    given = yaml.safe_load((ROOT / source).read_text())
    assert given == {
        name: [{"value": json.loads(value)}] for name, value in SERVER_SETTINGS.items()
    }


WRITES_IN_ITS_IMAGE = {"temporal", "temporal-ui"}
"""Programs of others that write their configuration into their own folders at the start."""


@pytest.mark.parametrize("name", services())
def test_every_container_is_confined(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert service.get("privileged") is None
    assert service.get("read_only", False) is (name not in WRITES_IN_ITS_IMAGE)
    if name not in WRITES_IN_ITS_IMAGE:
        assert any(re.fullmatch(r"/tmp:size=\d+m", each) for each in service["tmpfs"])  # noqa: S108
    for port in service.get("ports", ()):
        assert re.fullmatch(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+", port)


def test_capabilities_are_where_they_are_needed() -> None:
    given = {name: set(service.get("cap_add", ())) for name, service in services().items()}
    to_become_others = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert {name: added for name, added in given.items() if added} == {
        "postgres": to_become_others,
        "worker": to_become_others | {"KILL"},
    }
    as_root = {name for name in OURS if services()[name].get("user") is not None}
    assert as_root == {"worker"}


def test_postgres_and_temporal_are_on_a_network_that_leads_nowhere() -> None:
    networks: dict[str, Any] = yaml.safe_load(COMPOSE)["networks"]
    assert networks == {"inside": {"internal": True}, "outside": None}
    reached = {name for name, service in services().items() if "outside" in service["networks"]}
    assert reached == {"api", "temporal-ui", "worker"}
    assert all("inside" in service["networks"] for service in services().values())


def test_temporal_has_a_user_of_its_own_in_postgres() -> None:
    theirs = services()["temporal"]["environment"]
    ours = services()["api"]["environment"]
    assert theirs["POSTGRES_PWD"].startswith("${TEMPORAL_POSTGRES_PASSWORD:?")
    assert theirs["POSTGRES_USER"] != ours["POSTGRES_USER"]
    (script,) = [v for v in services()["postgres"]["volumes"] if "initdb.d" in v]
    assert (ROOT / script.partition(":")[0]).stat().st_mode & 0o111


def test_actions_of_others_are_named_by_commit() -> None:
    for file in (ROOT / ".github" / "workflows").glob("*.y*ml"):
        for used in re.findall(r"uses:\s*(\S+)", file.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
