"""What the SDK and the server both know is the same: neither imports the other, so it stands twice.

Limits, code bundles, control-plane.toml, the variables of workers, words and exact texts.
"""

import json
import unicodedata
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from control_plane import function
from control_plane import models as sdk
from control_plane._call import arguments
from control_plane._console.exits import MISSING_THINGS, STATUSES_OF_PHASES
from control_plane._console.output import STYLES
from control_plane._console.tree import CALLS_PER_PAGE
from control_plane._define import definition
from control_plane._define.definition import function_spec
from control_plane._deploy import bundle as sdk_bundle
from control_plane._deploy.discovery import PROJECT_FILE, discover
from control_plane._inside import progress_report
from control_plane.cli import ENTRY_POINT_GROUP
from control_plane.commands.list import PHASES
from control_plane.commands.table import SDK_COMMANDS, SERVER_COMMANDS
from control_plane.deploy import PIECE_HEAD_BYTES, UPLOAD_BYTES
from control_plane.errors import DefinitionError
from control_plane.runner import failure, values
from control_plane.runner.identity import EnvironmentIsIncompleteError, Identity
from control_plane.runner.report import ALREADY_FINISHED, ALREADY_STARTED
from pydantic import ValidationError

from api.http.middleware import MAX_BODY_BYTES
from core import bundles, errors, states
from core.contract import base
from core.contract.bundles import BundleDefinition
from core.contract.functions import FunctionSpec, RetrySpec
from core.contract.paging import MAX_INVOCATIONS_PER_PAGE
from provisioners.code.project import project_in
from tests.support.harness import STANDARD, TOKENS, ControlPlane

# Limits


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (arguments.MAX_INPUT_CHARACTERS, base.MAX_TEXT_LENGTH),
        (values.MAX_OUTPUT_CHARACTERS, base.MAX_TEXT_LENGTH),
        (failure.MAX_ERROR_CHARACTERS, base.MAX_ERROR_LENGTH),
        (progress_report.MAX_CHARACTERS, base.MAX_PROGRESS_LENGTH),
        (definition.MAX_NAME_CHARACTERS, base.NAME_LENGTH_LIMIT - 1),
        (CALLS_PER_PAGE, MAX_INVOCATIONS_PER_PAGE),
        (sdk_bundle.PIECE_BYTES, bundles.PIECE_BYTES),
    ],
)
def test_a_limit_is_the_same_number(here: int, there: int) -> None:
    assert here == there


def test_an_upload_stays_below_the_limit_of_a_request() -> None:
    pieces = -(-UPLOAD_BYTES // sdk_bundle.PIECE_BYTES)
    assert UPLOAD_BYTES + pieces * PIECE_HEAD_BYTES <= MAX_BODY_BYTES


_SETTINGS: dict[str, Any] = {
    "cpu": 1,
    "memory": "1 GiB",
    "timeout": 1,
    "max_retries": 0,
    "max_concurrency": 1,
}
_BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    # The argument of @function, and what it stands for: the last values that are accepted, and
    # values that are not.
    "cpu": ([0.01, 16], [0, 16.01]),
    "memory": (["1 KiB", "64 GiB"], ["0 GiB", "65 GiB"]),
    "timeout": ([1, 86_400], [0, 86_401]),
    "max_retries": ([0, 50], [-1, 51]),
    "max_concurrency": ([1, 100], [0, 101]),
    "retry_initial_interval": ([1, 86_400], [0, 86_401]),
    "retry_backoff_coefficient": ([1, 100], [0.99, 100.5]),
    "retry_maximum_interval": ([1, 86_400], [0, 86_401]),
    "image": (["i" * 1023], ["", "i" * 1024]),
}
_FIELDS = {
    "cpu": ("resource_spec", "virtual_cpus"),
    "memory": ("resource_spec", "memory_gbs"),
    "timeout": ("execution_spec", "timeout_seconds"),
    "max_retries": ("execution_spec", "max_retries"),
    "max_concurrency": ("resource_spec", "max_concurrency"),
    "retry_initial_interval": ("retry_spec", "initial_interval_seconds"),
    "retry_backoff_coefficient": ("retry_spec", "backoff_coefficient"),
    "retry_maximum_interval": ("retry_spec", "maximum_interval_seconds"),
    "image": ("docker_image_override",),
}


@pytest.mark.parametrize("argument", _BOUNDS)
def test_a_function_has_the_same_bounds_on_both_sides(argument: str) -> None:
    good, bad = _BOUNDS[argument]
    for value in good:
        FunctionSpec.model_validate(function_spec("f", **{**_SETTINGS, argument: value}))
    for value in bad:
        with pytest.raises(DefinitionError, match=rf"^{argument}"):
            function_spec("f", **{**_SETTINGS, argument: value})
        if value == "":
            continue  # The server takes an empty image: no provisioner has it.
        number = float(value.split()[0]) if argument == "memory" else value
        spec = function_spec("f", **_SETTINGS)
        *outer, field = _FIELDS[argument]
        place = spec.setdefault(outer[0], {}) if outer else spec
        place[field] = number
        with pytest.raises(ValidationError, match=field):
            FunctionSpec.model_validate(spec)


def test_defaults_of_pauses_are_the_servers() -> None:
    theirs = RetrySpec()
    ours = sdk.RetrySpec()
    for field in fields(ours):
        if field.name != "raw":
            assert getattr(ours, field.name) == getattr(theirs, field.name)


# Code bundles


def test_a_bundle_has_the_same_manifest_and_digest_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("1\n")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / unicodedata.normalize("NFD", "größe.txt")).write_text("ä")
    (tmp_path / "run").write_bytes(b"\x00" * (2 * bundles.PIECE_BYTES + 1))
    (tmp_path / "run").chmod(0o755)
    ours = sdk_bundle.make_bundle(tmp_path)
    sent = BundleDefinition.model_validate_json(json.dumps(ours.manifest))
    theirs = bundles.checked_manifest(
        [
            bundles.BundleFile(
                path=file.path,
                executable=file.executable,
                size=file.size,
                pieces=tuple(file.pieces),
            )
            for file in sent.files
        ],
        bundles.BundleLimits(total_bytes=2**30, file_bytes=2**30, files=100),
    )
    assert len(theirs.files) == 4
    assert any(file.executable for file in theirs.files)
    assert ours.digest == theirs.digest
    assert ours.image == bundles.SCHEME + theirs.digest
    assert bundles.digest_of(ours.image) == ours.digest
    assert dict.fromkeys(theirs.pieces) == dict.fromkeys(
        piece for file in ours.files for piece in file.pieces
    )


# control-plane.toml


def test_both_sides_read_the_same_project_file(tmp_path: Path) -> None:
    """The SDK reads the functions, the provisioner the command, each without the other's part."""
    (tmp_path / PROJECT_FILE).write_text(
        'command = ["/bin/true"]\n'
        "[functions.f]\n"
        "virtual_cpus = 2\nmemory_gbs = 3\nmax_concurrency = 4\n"
        "max_retries = 5\ntimeout_seconds = 6\n"
        "retry_spec = { initial_interval_seconds = 7 }\n"
        "[functions.g]\n"
    )
    assert project_in(tmp_path, environment_folder=tmp_path / ".venv").command == ("/bin/true",)
    first, second = map(FunctionSpec.model_validate, discover(tmp_path).functions)
    declared = first.model_dump()
    assert (declared["resource_spec"], declared["execution_spec"]) == (
        {"virtual_cpus": 2, "memory_gbs": 3, "max_concurrency": 4},
        {"max_retries": 5, "timeout_seconds": 6},
    )
    assert first.retry_spec is not None
    assert first.retry_spec.initial_interval_seconds == 7
    # What is not said is as for @function.
    assert second == FunctionSpec.model_validate(function(g).spec | {"function_name": "g"})


def g() -> None: ...


# The variables of workers


async def test_the_runner_reads_the_variables_that_workers_get(
    control_plane: ControlPlane,
) -> None:
    """With either prefix; the runner falls back to the earlier one."""
    await control_plane.deploy(STANDARD)
    execution = await control_plane.until_worker_runs(await control_plane.invoke("standard"))
    environment = execution.worker.request.environment
    prefixes = {name.rpartition("CONTROL_PLANE")[1] or "MULTINODE" for name in environment}
    assert prefixes == {"CONTROL_PLANE", "MULTINODE"}
    for prefix in prefixes:
        only = {name: value for name, value in environment.items() if name.startswith(prefix)}
        assert len(only) == len(environment) / 2
        identity = Identity(only)
        assert identity.execution_path == execution.path
        assert identity.api_key == TOKENS.derive(execution.id)
        # Each is read: without it the runner does not start.
        for name in only:
            with pytest.raises(EnvironmentIsIncompleteError):
                Identity({key: value for key, value in only.items() if key != name})


# Words for states, and exact texts


def test_words_for_states_are_the_servers() -> None:
    assert set(PHASES) == set(states.InvocationStatus)
    assert [phase for phases in PHASES.values() for phase in phases] == list(states.Phase)
    assert set(STATUSES_OF_PHASES) <= set(states.Phase)
    words = {
        *states.Phase,
        *states.PreparationStatus,
        *states.InvocationStatus,
        *states.WorkerStatus,
    }
    assert set(STYLES) - {"deleting"} <= words


def test_the_runner_knows_the_exact_texts_that_it_compares() -> None:
    assert errors.ExecutionHasAlreadyStartedError.detail == ALREADY_STARTED
    assert errors.ExecutionHasAlreadyFinishedError.detail == ALREADY_FINISHED


def test_the_commands_know_how_the_server_says_that_something_is_missing() -> None:
    missing = [
        errors.ProjectDoesNotExistError,
        errors.VersionDoesNotExistError,
        errors.FunctionDoesNotExistError,
        errors.InvocationDoesNotExistError,
        errors.ExecutionDoesNotExistError,
    ]
    for (beginning, _, _), error in zip(MISSING_THINGS, missing, strict=True):
        assert error.status == 404
        assert error.detail.startswith(f"{beginning} with this")
    assert errors.InvocationIdDoesNotExistError.detail.startswith(MISSING_THINGS[3][0])


def test_the_help_page_says_of_each_command_what_the_command_says() -> None:
    """The table of short helps stands beside the commands, which the page does not import."""
    found = {each.name: each for each in entry_points(group=ENTRY_POINT_GROUP)}
    assert set(SERVER_COMMANDS) == set(found) - set(SDK_COMMANDS)
    for name, text in SERVER_COMMANDS.items():
        command = found[name].load()
        assert isinstance(command, click.Command)
        assert click.Command(name, help=text).get_short_help_str(200) == (
            command.get_short_help_str(200)
        )
    for name, (place, text) in SDK_COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(
            __import__(f"control_plane.commands.{module}", fromlist=[attribute]), attribute
        )
        assert (command.name, command.short_help) == (name, text)
