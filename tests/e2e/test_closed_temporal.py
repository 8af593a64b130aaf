"""The embedded Temporal of `up`, as its owner uses it, and as a function attacks it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from standalone.temporal.process_file import ProcessFile
from tests.e2e.test_up import Up, environment
from tests.support.folders import server_folder
from tests.support.harness import function_spec
from tests.support.stack.processes import one_line, run

ATTACKER = '''
"""Knocks at Temporal in each way that a function has."""
import ctypes
import os
import socket

def attack(socket_path: str, pid: int) -> dict[str, str]:
    def tried(what):
        try:
            return f"reached: {what()!r}"
        except OSError as error:
            return type(error).__name__

    def connect():
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.connect(socket_path)

    def enter():
        file = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        if ctypes.CDLL(None).setns(file, 0x40000000) != 0:
            raise PermissionError

    return {
        "socket": tried(connect),
        "network": tried(enter),
        "memory": tried(lambda: open(f"/proc/{pid}/mem", "rb").close()),
        "relay": tried(lambda: open(f"/proc/{os.getppid()}/mem", "rb").close()),
        "signal": tried(lambda: os.kill(pid, 0)),
    }
'''


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with server_folder("closed") as folder:
        stack = Up(folder)
        yield stack
        stack.close()


def temporal_of(up: Up) -> int:
    pid = ProcessFile(up.data / "temporal").read()
    assert pid is not None
    return pid


def test_temporals_own_commands_reach_it_whatever_the_shell_says(up: Up) -> None:
    call = up.greet()
    elsewhere = {
        **environment(),
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "TEMPORAL_TLS": "true",
        "HOME": os.environ.get("HOME", "/"),
    }
    ended = run(
        "temporal", f"--data-folder={up.data}", "workflow", "describe", "-w", call.id,
        "--output", "json", environment=elsewhere,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    described = json.loads(ended.stdout)["workflowExecutionInfo"]
    assert described["execution"]["workflowId"] == call.id


def test_a_folder_without_a_closed_temporal_is_named(up: Up, tmp_path: Path) -> None:
    del up
    ended = run("temporal", f"--data-folder={tmp_path}", "workflow", "list", environment={})
    assert ended.returncode == 1
    assert f"No closed Temporal runs with its data in {tmp_path}" in one_line(ended.stderr)


def test_the_page_of_a_call_opens_by_the_link_of_the_command(up: Up) -> None:
    call = up.greet()
    variables = {
        **environment(),
        "CONTROL_PLANE_API_URL": up.url,
        "CONTROL_PLANE_API_KEY": (up.data / "api-key").read_text().strip(),
    }
    link = urlsplit(run("open", call.id, environment=variables).stdout.strip())
    page = urlsplit(call.get()["temporal_url"])
    assert page.netloc == link.netloc
    assert page.path == f"/namespaces/default/workflows/{call.id}"
    with httpx.Client(base_url=f"http://127.0.0.1:{link.port}", timeout=60) as browser:
        browser.headers["host"] = link.netloc
        assert browser.get(page.path).status_code == 401
        opened = browser.get(f"{link.path}?{link.query}")
        assert (opened.status_code, opened.headers["location"]) == (303, page.path)
        session = opened.headers["set-cookie"].partition(";")[0]
        assert browser.get(page.path, headers={"cookie": session}).status_code == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="functions are other users where root runs them")
def test_a_function_does_not_reach_it(up: Up) -> None:
    project = up.folder / "attacker"
    project.mkdir()
    (project / "main.py").write_text(ATTACKER)
    version = up.caller.deploy(project, function_spec("attack"), project="attacker")
    sockets = list((up.data / "temporal").rglob("temporal.sock"))
    assert len(sockets) == 1
    call = version.invoke_text("attack", json.dumps([str(sockets[0]), temporal_of(up)]))
    over = call.until_over(seconds=60)
    assert over["phase"] == "SUCCEEDED", over
    assert json.loads(over["executions"][0]["output"]) == {
        "socket": "PermissionError",
        "network": "PermissionError",
        "memory": "PermissionError",
        "relay": "PermissionError",
        "signal": "PermissionError",
    }


def test_a_port_goes_with_an_open_temporal_alone(tmp_path: Path) -> None:
    arguments = ("up", f"--data-folder={tmp_path / 'data'}", "--temporal-port=7777")
    ended = run(*arguments, environment=environment())
    assert ended.returncode == 2
    assert "--temporal-port goes with --temporal-open" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_an_open_one_has_its_ports_and_says_so() -> None:
    with server_folder("open") as folder:
        up = Up(folder, "--temporal-open")
        try:
            up.greet()
            assert "temporal_is_open" in (up.data / "control-plane.log").read_text()
            assert "unix:" not in up.program.stdout
            ended = run("temporal", f"--data-folder={up.data}", "workflow", environment={})
            assert "--temporal-open" in ended.stderr
        finally:
            up.close()
