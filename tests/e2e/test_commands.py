"""`control-plane api`, `worker` and `migrate`: what they refuse, and what they do to the tables."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from core.settings import RegistrySettings
from tests.support.servers import Addresses, connect, environment_of, fresh_database
from tests.support.stack.processes import Program, one_line, run
from tests.support.stack.stack import environment_for

SERVER_COMMANDS = ("api", "worker")


@pytest.fixture
def empty_database(servers: Addresses) -> Iterator[RegistrySettings]:
    with fresh_database(servers, template="template0") as settings:
        yield settings


@contextmanager
def closed_database(settings: RegistrySettings) -> Iterator[None]:
    """Let Postgres refuse all connections to a test's database during the block."""
    name = sql.Identifier(settings.postgres_db)
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with connect(settings, database="postgres") as connection:
        connection.execute(allow.format(name, sql.SQL("false")))
        try:
            yield
        finally:
            connection.execute(allow.format(name, sql.SQL("true")))


def tables(settings: RegistrySettings) -> set[str]:
    with connect(settings, database=settings.postgres_db) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row[0] for row in rows}


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        ("api", "CONTROL_PLANE_API_KEY"),
        ("worker", "POSTGRES_USER"),
        ("migrate", "POSTGRES_PASSWORD"),
    ],
)
def test_a_missing_setting_is_named_in_one_line(
    registry_settings: RegistrySettings, servers: Addresses, command: str, variable: str
) -> None:
    environment = environment_for(registry_settings, servers)
    del environment[variable]
    arguments = ["--provisioner=process"] if command in SERVER_COMMANDS else []
    ended = run(command, *arguments, environment=environment)
    assert ended.returncode == 1
    assert one_line(ended.stderr).endswith(f"Environment variable {variable} not found")


def test_a_wrong_setting_is_named_in_one_line(
    registry_settings: RegistrySettings, servers: Addresses
) -> None:
    environment = environment_for(registry_settings, servers) | {"POSTGRES_PORT": "0x1538"}
    ended = run("worker", "--provisioner=process", environment=environment)
    assert ended.returncode == 1
    line = one_line(ended.stderr)
    assert "Environment variable POSTGRES_PORT is invalid" in line
    assert "0x1538" not in line


def test_a_port_out_of_range_is_a_usage_error(registry_settings: RegistrySettings) -> None:
    environment = environment_of(registry_settings)
    ended = run("api", "--provisioner=process", "--port=70000", environment=environment)
    assert ended.returncode == 2
    assert "--port" in ended.stderr


@pytest.mark.parametrize("command", ["api", "worker", "loop", "up"])
def test_an_unknown_provisioner_is_a_usage_error(
    registry_settings: RegistrySettings, servers: Addresses, command: str, tmp_path: Path
) -> None:
    """`loop` is another name of `worker`."""
    environment = environment_for(registry_settings, servers)
    environment["PROCESS_STATE_FOLDER"] = str(tmp_path)
    environment["CONTROL_PLANE_DATA_FOLDER"] = str(tmp_path)
    ended = run(command, "--provisioner=abacus", environment=environment)
    assert ended.returncode == 2
    assert "abacus" in ended.stderr
    assert "process" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["api", "worker", "loop", "up"])
def test_the_help_names_the_provisioners(command: str) -> None:
    ended = run(command, "--help", environment={})

    assert ended.returncode == 0
    shown = " ".join(ended.stdout.split())
    assert "Installed: dev, external, process." in shown
    if command in {"api", "worker", "loop"}:
        assert "CONTROL_PLANE_API_KEY" in shown
    if command in {"worker", "loop"}:
        assert "`loop` is the same as `worker`" in shown


@pytest.mark.parametrize("command", ["api", "worker"])
def test_the_provisioner_must_be_named(registry_settings: RegistrySettings, command: str) -> None:
    ended = run(command, environment=environment_of(registry_settings))
    assert ended.returncode == 2
    assert "--provisioner" in ended.stderr


def test_a_temporal_that_is_away_ends_the_worker_with_one_line(
    registry_settings: RegistrySettings, servers: Addresses, tmp_path: Path
) -> None:
    environment = environment_for(registry_settings, servers)
    environment |= {"TEMPORAL_ADDRESS": "127.0.0.1:9", "PROCESS_STATE_FOLDER": str(tmp_path)}
    ended = run("worker", "--provisioner=process", environment=environment)
    assert ended.returncode == 1, ended.stderr
    assert "Temporal does not answer at 127.0.0.1:9" in one_line(ended.stderr)


def test_an_unknown_namespace_ends_the_worker_with_one_line(
    registry_settings: RegistrySettings, servers: Addresses, tmp_path: Path
) -> None:
    environment = environment_for(registry_settings, servers)
    environment |= {"TEMPORAL_NAMESPACE": "nowhere", "PROCESS_STATE_FOLDER": str(tmp_path)}
    ended = run("worker", "--provisioner=process", environment=environment)
    assert ended.returncode == 1, ended.stderr
    line = one_line(ended.stderr)
    assert line.startswith("Error: Temporal: ")
    assert "nowhere" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_state_folder_of_another_user_ends_the_worker_with_one_line(
    registry_settings: RegistrySettings, servers: Addresses, tmp_path: Path
) -> None:
    os.chown(tmp_path, 65534, 65534)
    environment = environment_for(registry_settings, servers)
    environment["PROCESS_STATE_FOLDER"] = str(tmp_path)
    ended = run("worker", "--provisioner=process", environment=environment)
    assert ended.returncode == 1, ended.stderr
    assert one_line(ended.stderr) == (f"Error: The state folder {tmp_path} belongs to another user")


def test_a_postgres_that_refuses_ends_the_worker_with_one_line(
    registry_settings: RegistrySettings, servers: Addresses, tmp_path: Path
) -> None:
    """Only asked for with `--create-tables`; later the worker waits for Postgres."""
    environment = environment_for(registry_settings, servers)
    environment |= {
        "POSTGRES_DB": "nowhere",
        "POSTGRES_WAIT_SECONDS": "1",
        "PROCESS_STATE_FOLDER": str(tmp_path),
    }
    ended = run("worker", "--provisioner=process", "--create-tables", environment=environment)
    assert ended.returncode == 1, ended.stderr
    line = one_line(ended.stderr)
    assert line.startswith("Error: Postgres: ")
    assert 'database "nowhere" does not exist' in line


def test_the_worker_waits_for_a_postgres_that_refuses(
    registry_settings: RegistrySettings, servers: Addresses, tmp_path: Path
) -> None:
    environment = environment_for(registry_settings, servers)
    environment["PROCESS_STATE_FOLDER"] = str(tmp_path / "state")
    command = ("worker", "--provisioner=process")
    with closed_database(registry_settings):
        stopped = Program(*command, environment=environment, folder=tmp_path / "stopped")
        patient = Program(*command, environment=environment, folder=tmp_path / "patient")
        stopped.event("postgres_does_not_answer")
        stopped.send(signal.SIGTERM)
        patient.event("postgres_does_not_answer")
    try:
        assert stopped.wait() == 0, stopped.stderr
        patient.event("temporal_worker_started")
        patient.send(signal.SIGTERM)
        assert patient.wait() == 0, patient.stderr
    finally:
        stopped.kill()
        patient.kill()


def test_a_postgres_that_is_away_ends_migrate_without_a_traceback(
    registry_settings: RegistrySettings,
) -> None:
    environment = environment_of(registry_settings) | {
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": "9",
    }
    ended = run("migrate", "--wait=0", environment=environment)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: Postgres: ")
    assert "port 9 failed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_worker_creates_the_tables_at_its_start_and_deletes_them_at_its_end(
    empty_database: RegistrySettings, servers: Addresses, tmp_path: Path
) -> None:
    environment = environment_for(empty_database, servers)
    environment["PROCESS_STATE_FOLDER"] = str(tmp_path / "state")
    program = Program(
        "worker",
        "--provisioner=process",
        "--create-tables",
        "--delete-tables",
        environment=environment,
        folder=tmp_path,
    )
    try:
        program.event("temporal_worker_started")
        assert "invocations" in tables(empty_database)
        program.send(signal.SIGTERM)
        assert program.wait() == 0, program.stderr
    finally:
        program.kill()
    assert "invocations" not in tables(empty_database)


def test_migrate_may_run_again(empty_database: RegistrySettings) -> None:
    environment = environment_of(empty_database)
    for _ in range(2):
        ended = run("migrate", environment=environment)
        assert ended.returncode == 0, ended.stderr
        assert "executions" in tables(empty_database)
