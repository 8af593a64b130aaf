"""The documented way to run it: `loop` and `api` with an example environment file.

Flags and files are those of docs/run-the-server.md. Only addresses differ, since tests run beside
each other: those of Postgres with its database, of Temporal, of the API and of the provisioner.
"""

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from core.settings import RegistrySettings
from tests.support.harness import function_spec
from tests.support.ports import free_port
from tests.support.provisioners.example_server import ExampleServer
from tests.support.repository import ROOT
from tests.support.servers import Addresses, connect, fresh_database
from tests.support.stack.caller import Caller
from tests.support.stack.processes import Json, Program, one_line, run, wait_for
from tests.support.stack.stack import PROJECT, environment_for

ENVIRONMENT = ROOT / "environment"
KEY = "butterflyburger"
LOOP = ("loop", "--provisioner=dev", "--create-tables", "--delete-tables")
API = ("api", "--provisioner=dev")
EXTERNAL_LOOP = ("loop", "--provisioner=external", "--create-tables", "--delete-tables")
EXTERNAL_API = ("api", "--provisioner=external")


def read_file(kind: str) -> dict[str, str]:
    """Read an environment file as `docker run --env-file` does: no quotes, no expansion."""
    lines = (ENVIRONMENT / f"example-{kind}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Documented:
    """Runs commands with an environment file, and a database without tables."""

    def __init__(self, folder: Path, database: RegistrySettings, servers: Addresses) -> None:
        self._folder = folder
        self._database = database
        self._exits = ExitStack()
        self._count = 0
        ours = environment_for(database, servers)
        # Secrets of the file must do: only the database's own user is another one.
        del ours["CONTROL_PLANE_API_KEY"]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._ours = {
            **ours,
            "CONTROL_PLANE_HOST": "127.0.0.1",
            "CONTROL_PLANE_PORT": str(self.port),
            "CONTROL_PLANE_API_URL": self.url,
        }
        self.caller = self._exits.enter_context(Caller(self.url, KEY))

    def environment(self, kind: str, **others: str) -> dict[str, str]:
        return {**read_file(kind), **self._ours, **others}

    def start(self, *command: str, environment: Mapping[str, str]) -> Program:
        self._count += 1
        program = Program(
            *command, environment=environment, folder=self._folder / f"{command[0]}-{self._count}"
        )
        self._exits.callback(program.kill)
        return program

    def tables(self) -> set[str]:
        with connect(self._database, database=self._database.postgres_db) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            return {row[0] for row in rows}

    def close(self) -> None:
        self._exits.close()


@pytest.fixture
def documented(servers: Addresses, tmp_path: Path) -> Iterator[Documented]:
    with fresh_database(servers, template="template0") as database:
        running = Documented(tmp_path, database, servers)
        yield running
        running.close()


def end(program: Program, number: int = signal.SIGTERM) -> None:
    program.send(number)
    assert program.wait(seconds=60) == 0, program.stderr


@pytest.mark.parametrize("kind", ["dev", "external"])
def test_the_environment_files_hold_the_documented_values(kind: str) -> None:
    """Postgres' image makes its database from the same file."""
    values = read_file(kind)
    documented = {
        "CONTROL_PLANE_API_KEY": KEY,
        "POSTGRES_DB": "db",
        "POSTGRES_USER": "user",
        "POSTGRES_PASSWORD": "password",
        "TEMPORAL_ADDRESS": "localhost:7233",
    }
    if kind == "external":
        documented["PROVISIONER_API_KEY"] = "lemonandherb"
    assert documented.items() <= values.items()
    # Docker keeps quotes and spaces as they are.
    assert not [value for value in values.values() if value != value.strip(" \"'")]


def test_the_ports_default_to_the_documented_one(documented: Documented) -> None:
    ended = run("api", "--help", environment=documented.environment("dev"))
    assert ended.returncode == 0
    assert "env var: CONTROL_PLANE_PORT; default: 5000" in " ".join(ended.stdout.split())


def test_loop_and_api_in_dev_mode(documented: Documented) -> None:
    """From an empty database through curl's requests and a played worker to no tables again."""
    environment = documented.environment("dev")
    loop = documented.start(*LOOP, environment=environment)
    api = documented.start(*API, environment=environment)
    loop.event("temporal_worker_started", seconds=60)
    assert api.event("api_listening", seconds=60)["port"] == documented.port

    assert documented.caller.get("/projects") == {"projects": []}
    with httpx.Client(base_url=documented.url, timeout=10) as nobody:
        assert nobody.get("/projects").status_code == 403
        assert nobody.get("/openapi.json").json()["openapi"] == "3.0.3"

    call = documented.caller.deploy(PROJECT, function_spec("greet")).invoke("greet", "Ada")

    def plays(seen: Json) -> bool:
        return bool(seen["executions"]) and seen["executions"][0]["worker_status"] == "RUNNING"

    (execution,) = call.until(plays, seconds=60)["executions"]
    assert execution["worker_details"]["type"] == "TEST"
    worker = call.execution_path(execution)
    documented.caller.call("PUT", f"{worker}/start")
    report = {"outcome": "SUCCEEDED", "final_output": '"Hello, Ada!"'}
    documented.caller.call("PUT", f"{worker}/finish", json=report)
    assert call.until_over(seconds=60)["phase"] == "SUCCEEDED"

    end(api)
    assert "invocations" in documented.tables()
    end(loop)
    assert documented.tables() == set()


def test_loop_and_api_with_an_external_provisioner(documented: Documented, tmp_path: Path) -> None:
    """The key for the provisioner is that of the file."""
    server = ExampleServer(tmp_path)
    try:
        environment = documented.environment("external", PROVISIONER_API_URL=server.url)
        loop = documented.start(*EXTERNAL_LOOP, environment=environment)
        api = documented.start(*EXTERNAL_API, environment=environment)
        loop.event("temporal_worker_started", seconds=60)
        api.event("api_listening", seconds=60)
        call = documented.caller.deploy(PROJECT, function_spec("greet")).invoke("greet", "Ada")
        assert call.until_over(seconds=60)["phase"] == "SUCCEEDED"
        end(api)
        end(loop)
        assert documented.tables() == set()
    finally:
        server.close()


def test_a_kind_in_upper_case_is_the_same_kind(documented: Documented) -> None:
    """Temporal worker and API find each other, however each was written."""
    environment = documented.environment("dev")
    loop = documented.start("loop", "--provisioner=DEV", "--create-tables", environment=environment)
    assert loop.event("temporal_worker_started", seconds=60)["provisioner"] == "dev"
    api = documented.start("api", "--provisioner=Dev", environment=environment)
    api.event("api_listening", seconds=60)
    version = documented.caller.deploy(PROJECT, function_spec("greet"))
    wait_for(
        lambda: documented.caller.get(version.path)["functions"][0]["function_status"],
        lambda status: status == "READY",
        seconds=60,
    )


@pytest.mark.parametrize("command", [LOOP, (*API, "--create-tables", "--delete-tables")])
def test_delete_tables_works_after_an_interrupt(
    documented: Documented, command: tuple[str, ...]
) -> None:
    """Ctrl-C, of either command: `api` takes both flags, too."""
    program = documented.start(*command, environment=documented.environment("dev"))
    started = "temporal_worker_started" if command[0] == "loop" else "api_listening"
    program.event(started, seconds=60)
    assert "invocations" in documented.tables()
    end(program, signal.SIGINT)
    assert documented.tables() == set()


def test_delete_tables_works_after_an_error(documented: Documented) -> None:
    environment = documented.environment("dev", TEMPORAL_ADDRESS="127.0.0.1:9")
    ended = run(*LOOP, environment=environment)
    assert ended.returncode == 1
    assert "registry_migrated" in ended.stderr
    assert "Temporal does not answer at 127.0.0.1:9" in ended.stderr.splitlines()[-1]
    assert documented.tables() == set()


def test_tables_that_a_killed_loop_left_serve_the_next_one(documented: Documented) -> None:
    environment = documented.environment("dev")
    killed = documented.start(*LOOP, environment=environment)
    killed.event("temporal_worker_started", seconds=60)
    killed.kill()
    assert "invocations" in documented.tables()
    loop = documented.start(*LOOP, environment=environment)
    loop.event("temporal_worker_started", seconds=60)
    end(loop)
    assert documented.tables() == set()


@pytest.mark.parametrize(
    ("kind", "command", "variable"),
    [
        ("dev", LOOP, "CONTROL_PLANE_API_KEY"),
        ("dev", API, "POSTGRES_DB"),
        ("dev", LOOP, "POSTGRES_PASSWORD"),
        ("external", EXTERNAL_LOOP, "PROVISIONER_API_URL"),
        ("external", EXTERNAL_LOOP, "PROVISIONER_API_KEY"),
    ],
)
def test_a_variable_that_the_file_lacks_is_named(
    documented: Documented, kind: str, command: tuple[str, ...], variable: str
) -> None:
    """One line, exit code 1, and nothing has been done before."""
    environment = documented.environment(kind)
    del environment[variable]
    ended = run(*command, environment=environment)
    assert ended.returncode == 1
    assert one_line(ended.stderr) == f"Error: Environment variable {variable} not found"
    assert documented.tables() == set()


@pytest.mark.parametrize("command", ["loop", "api"])
@pytest.mark.parametrize("flags", [("--provisioner=dev", "--drop-tables"), ("--provisioner",)])
def test_a_wrong_flag_is_a_usage_error(
    documented: Documented, command: str, flags: tuple[str, ...]
) -> None:
    ended = run(command, *flags, environment=documented.environment("dev"))
    assert ended.returncode == 2
    assert flags[-1] in ended.stderr
    assert "Traceback" not in ended.stderr
