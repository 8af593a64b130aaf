"""Dockerfile, .dockerignore and docker-compose.yml agree with the code."""

import inspect
import json
import re
import tomllib
from typing import Any

import yaml  # type: ignore[import-untyped] # has no types
from pydantic_settings import BaseSettings

from core import settings
from provisioners.external import settings as external
from provisioners.process import config as process
from standalone.servers.temporal import SERVER_SETTINGS
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
