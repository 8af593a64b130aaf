"""`control-plane up`: the whole stack in one process, with its data in one folder."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from standalone.running_server import running_server
from standalone.servers.ports import free_ports
from tests.support.certificates import make_certificate, needs_openssl
from tests.support.harness import function_spec
from tests.support.stack.caller import Caller, Invocation
from tests.support.stack.processes import (
    COMMAND,
    Program,
    one_line,
    processes_that_mention,
    run,
    until_no_process_mentions,
    wait_for,
)
from tests.support.stack.stack import PROJECT, end_workers

NOBODY = 65534


def environment() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "TEMPORAL_HEARTBEAT_SECONDS": "2",
        # For another Temporal: with a key, Temporal's library would speak TLS to ours.
        "TEMPORAL_API_KEY": "of another Temporal",
    }


def _field(output: str, name: str) -> str:
    found = re.search(rf"^  {name} +(\S.*)$", output, re.MULTILINE)
    assert found is not None, output
    return found[1]


class Up:
    """A stack that runs, and a caller of its API."""

    def __init__(self, folder: Path, *arguments: str, user: int | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.program = Program(
            "up",
            f"--data-folder={self.data}",
            "--port=0",
            *arguments,
            environment=environment(),
            folder=folder / "output",
            user=user,
        )
        try:
            output = self.program.says("Ready.")
            self.url = _field(output, "API")
            key_file = Path(_field(output, "API key file"))
            assert key_file.stat().st_mode & 0o777 == 0o600
            self.caller = Caller(self.url, key_file.read_text().strip())
        except BaseException:
            self.program.kill()
            raise

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def greet(self) -> Invocation:
        version = self.caller.deploy(PROJECT, function_spec("greet"))
        call = version.invoke("greet", "Ada")
        assert call.result() == "Hello, Ada!"
        return call

    def stop(self) -> int:
        self.caller.http.close()
        self.program.send(signal.SIGTERM)
        return self.program.wait()

    def close(self) -> None:
        self.caller.http.close()
        self.program.kill()
        asyncio.run(end_workers(self.data / "workers"))
        # What it started knows its folder, and does not outlive it.
        until_no_process_mentions(self.data)


@pytest.fixture
def start_up(open_folder: Path) -> Iterator[Callable[..., Up]]:
    """Starts a stack in a subfolder; ends it at the end."""
    started: list[Up] = []

    def start(name: str = "one", *arguments: str) -> Up:
        folder = open_folder / name
        folder.mkdir(mode=0o711, exist_ok=True)
        started.append(Up(folder, *arguments))
        return started[-1]

    yield start
    for up in reversed(started):
        up.close()


def test_data_outlives_a_stop_and_a_start_and_is_refused_to_others_meanwhile(
    start_up: Callable[..., Up], open_folder: Path
) -> None:
    up = start_up()
    call = up.greet()
    before = call.get()
    key = (up.data / "api-key").read_text()
    assert running_server(up.data) == up.url
    for data, port, message in (
        (up.data, 0, f"is in use by process {up.program.pid} "),
        (open_folder / "another", up.port, f"Port {up.port} for the API is taken. "),
    ):
        ended = run("up", f"--data-folder={data}", f"--port={port}", environment=environment())
        assert ended.returncode == 1
        assert message in one_line(ended.stderr)

    assert up.stop() == 0
    assert up.program.stdout.rstrip().endswith("start again to go on.")
    assert "Traceback" not in up.program.stderr
    # What goes on is in the log alone: on a terminal it would come between the lines shown.
    assert '"level": "info"' not in up.program.stderr
    log = Path(_field(up.program.stdout, "Log"))
    assert log.parent == up.data.resolve()
    assert log.stat().st_mode & 0o777 == 0o600
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert "registry_migrated" in events
    assert processes_that_mention(up.data) == {}
    assert running_server(up.data) is None

    up = start_up()
    assert (up.data / "api-key").read_text() == key
    again = up.caller.get(call.path)
    # Temporal's web UI may have another port.
    for seen in (before, again):
        seen.pop("temporal_url")
        seen["executions"][0].pop("temporal_url")
    assert again == before


def test_kill_9_of_one_of_two_stacks_leaves_no_server_and_the_next_start_works(
    start_up: Callable[..., Up], gate: Path
) -> None:
    """A function that runs meanwhile goes on, and the next stack takes its result."""
    # The same port, so that the runner finds the API again.
    (port,) = free_ports(1)
    up, beside = start_up("one", f"--port={port}"), start_up("two")
    version = up.caller.deploy(PROJECT, function_spec("talk"))
    call = version.invoke("talk", str(gate))
    call.until_started()

    up.program.kill()

    # Only the worker is left: its shim and its program.
    worker = processes_that_mention(up.data / "workers")
    assert len(worker) == 2
    wait_for(lambda: processes_that_mention(up.data), lambda left: left == worker, seconds=10)
    beside.greet()
    gate.touch()
    up = start_up("one", f"--port={port}")
    over = Invocation(up.caller, call.path.rpartition("/")[0], call.id).until_over(seconds=60)
    assert over["phase"] == "SUCCEEDED"
    assert len(over["executions"]) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Postgres is another user's process")
def test_a_data_folder_that_postgres_cannot_reach_is_named(open_folder: Path) -> None:
    """As below a home that others may not enter."""
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    ended = run("up", f"--data-folder={home / 'data'}", "--port=0", environment=environment())
    assert ended.returncode == 1
    assert str(home) in one_line(ended.stderr)
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unprivileged_user_can_run_it(open_folder: Path) -> None:
    try:
        subprocess.run(
            [COMMAND, "--help"], user=NOBODY, group=NOBODY, extra_groups=[], check=True, cwd="/",
            capture_output=True, env=environment(),
        )  # fmt: skip
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("the user nobody may not enter the folder of the checkout or of its Python")
    folder = open_folder / "nobody"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    up = Up(folder, user=NOBODY)
    try:
        up.greet()
        assert up.stop() == 0
    finally:
        up.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_its_servers_with_it(
    start_up: Callable[..., Up], number: signal.Signals
) -> None:
    up = start_up()
    # A server that hangs, so that the clean stop takes long.
    (temporal,) = (
        pid
        for pid, arguments in processes_that_mention(up.data).items()
        if "start-dev" in arguments and "relay_main" not in arguments
    )
    os.kill(temporal, signal.SIGSTOP)
    up.program.send(number)
    up.program.says("once more Ctrl-C to stop at once")

    up.program.send(number)

    assert up.program.wait(seconds=30) == -number
    until_no_process_mentions(up.data)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--provisioner=external"], "PROVISIONER_API_URL not found"),
        (["--port={taken}"], "Port {taken} for the API is taken"),
    ],
)
def test_a_start_that_cannot_work_makes_nothing(
    open_folder: Path, arguments: list[str], says: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(
            "up",
            f"--data-folder={open_folder / 'new'}",
            *(argument.format(taken=port) for argument in arguments),
            environment=environment(),
        )

    assert ended.returncode == 1, ended.stderr
    assert says.format(taken=port) in one_line(ended.stderr)
    assert not (open_folder / "new").exists()


@pytest.mark.parametrize(("name", "mark"), [("Temporal", " start-dev "), ("Postgres", " -D ")])
def test_the_death_of_a_server_ends_it_and_the_next_start_goes_on(
    start_up: Callable[..., Up], name: str, mark: str
) -> None:
    up = start_up()
    call = up.greet()
    (server,) = (
        pid
        for pid, args in processes_that_mention(up.data).items()
        if mark in args and "relay_main" not in args
    )

    os.kill(server, signal.SIGKILL)

    assert up.program.wait(seconds=60) == 1
    assert f"{name} has ended unexpectedly" in up.program.stderr
    again = start_up()
    seen = Invocation(again.caller, call.path.rpartition("/")[0], call.id).get()
    assert seen["phase"] == "SUCCEEDED"
    again.greet()


def test_a_key_that_can_be_guessed_is_refused_before_anything_is_made(open_folder: Path) -> None:
    data = open_folder / "data"
    weak = {**environment(), "CONTROL_PLANE_API_KEY": "butterflyburger"}
    ended = run("up", f"--data-folder={data}", "--port=0", "--host=0.0.0.0", environment=weak)
    assert ended.returncode == 2
    assert "CONTROL_PLANE_API_KEY is a well-known word" in one_line(ended.stderr)
    assert not data.exists()


@needs_openssl
def test_a_certificate_that_workers_would_not_trust_is_refused_at_the_start(
    open_folder: Path,
) -> None:
    """Else every call would wait for a worker that cannot report."""
    certificate, key = make_certificate(open_folder / "tls", "DNS:control-plane.example.com")
    arguments = (
        "up",
        f"--data-folder={open_folder / 'data'}",
        "--port=0",
        f"--certificate-file={certificate}",
        f"--key-file={key}",
    )
    unknown = run(*arguments, environment=environment())
    trusted = {**environment(), "SSL_CERT_FILE": str(certificate)}
    for_another_name = run(*arguments, environment=trusted)
    for ended, reason in ((unknown, "self-signed certificate"), (for_another_name, "IP address")):
        assert ended.returncode == 1
        line = ended.stderr.strip().splitlines()[-1]
        assert line.startswith("Error: Workers would not trust the certificate at https://127.0.0")
        assert reason in line
