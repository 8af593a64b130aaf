import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionStatus

from standalone.errors import (
    DataFolderError,
    DataFolderIsInUseError,
    PortIsTakenError,
    ServerFailedError,
    StandaloneError,
)
from standalone.servers.child import wait_until
from standalone.servers.ownership import start_time
from standalone.servers.ports import free_ports
from standalone.temporal.open_server import OpenTemporal
from tests.support.ports import free_port

PARENT = """
import sys, time; from pathlib import Path
from standalone.temporal.open_server import OpenTemporal
with OpenTemporal(Path(sys.argv[1]), ui=False) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def arguments_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def listening_addresses(pid: int) -> set[str]:
    """Where a process accepts connections, as the kernel prints it: address and port in hex."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # The server closes files while they are listed.
        with suppress(FileNotFoundError):
            sockets.add(str(entry.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1])
    return found


async def test_workflows_and_namespace_outlive_kill_9_and_a_restart(tmp_path: Path) -> None:
    server = OpenTemporal(tmp_path, ui=False, namespace="shop")
    async with server:
        client = await Client.connect(server.address, namespace="shop")
        await client.start_workflow("Anything", id="kept", task_queue="nobody-listens")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert await asyncio.wait_for(server.exited(), 10) == -signal.SIGKILL
        assert server.pid is None
        # Twice: after kill -9, and after an orderly stop.
        for _ in range(2):
            await asyncio.to_thread(server.start)
            client = await Client.connect(server.address, namespace="shop")
            description = await client.get_workflow_handle("kept").describe()
            assert description.status == WorkflowExecutionStatus.RUNNING
            await asyncio.to_thread(server.stop)
    assert (tmp_path / "temporal.db").stat().st_mode & 0o777 == 0o600


async def test_what_was_asked_for_is_there_when_the_start_returns(tmp_path: Path) -> None:
    port, ui_port = free_ports(2)
    async with OpenTemporal(
        tmp_path,
        persistent=False,
        port=port,
        ui_port=ui_port,
        search_attributes={"Project": "Keyword", "Attempt": "Int"},
        extra_arguments=["--dynamic-config-value", "limit.maxIDLength=255"],
    ) as server:
        assert server.environment() == {
            "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
            "TEMPORAL_NAMESPACE": "default",
            "TEMPORAL_UI_URL": f"http://127.0.0.1:{ui_port}",
        }
        client = await Client.connect(server.address)
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace="default")
        )
        assert known.custom_attributes.keys() >= {"Project", "Attempt"}
        reader, writer = await asyncio.open_connection("127.0.0.1", ui_port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert server.pid is not None
        assert "--ui-disable-news-fetch" in arguments_of(server.pid)
        # Nothing can be reached from outside of the machine.
        addresses = listening_addresses(server.pid)
        assert f"0100007F:{port:04X}" in addresses
        assert {address.partition(":")[0] for address in addresses} == {"0100007F"}
    assert not (tmp_path / "temporal.db").exists()


def test_after_kill_9_of_the_parent_nothing_runs_and_the_next_starts_at_once(
    tmp_path: Path,
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert start_time(pid) is not None
    with pytest.raises(DataFolderIsInUseError, match=f"process {parent.pid} "):
        OpenTemporal(tmp_path, ui=False).start()
    parent.kill()
    parent.wait()
    with OpenTemporal(tmp_path, ui=False):
        assert wait_until(lambda: start_time(pid) is None, timeout=20)
    parent.stdout.close()


@pytest.mark.parametrize("which", ["port", "ui_port"])
def test_a_taken_port_that_was_asked_for_is_said(
    tmp_path: Path, taken_port: int, which: str
) -> None:
    ports = {"port": free_port(), "ui_port": free_port(), which: taken_port}
    what = {"port": "Temporal", "ui_port": "Temporal's web UI"}[which]
    server = OpenTemporal(tmp_path, port=ports["port"], ui_port=ports["ui_port"])
    with pytest.raises(PortIsTakenError, match=f"Port {taken_port} for {what} is taken"):
        server.start()
    assert server.pid is None


class SlowTemporal:
    """The real program behind a script that tells its arguments and waits until it may go on.

    What happens in between has happened between the choice of the ports and their use.
    """

    def __init__(self, folder: Path) -> None:
        self.script = folder / "slow-temporal"
        self._arguments = folder / "arguments"
        self._may_go = folder / "may-go"
        real = Path(sys.executable).parent / "temporal"
        self.script.write_text(
            f"#!/bin/sh\n"
            f"echo $@ > {self._arguments}.new; mv {self._arguments}.new {self._arguments}\n"
            f"until [ -e {self._may_go} ]; do sleep 0.01; done\n"
            f'exec {real} "$@"\n'
        )
        self.script.chmod(0o755)

    def arguments(self) -> list[str]:
        assert wait_until(self._arguments.exists, timeout=20)
        return self._arguments.read_text().split()

    def go_on(self) -> None:
        self._may_go.touch()


@pytest.mark.parametrize("flag", ["--port", "--ui-port", "--metrics-port", "--http-port"])
def test_a_chosen_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path, flag: str) -> None:
    slow = SlowTemporal(tmp_path)
    server = OpenTemporal(tmp_path / "data", persistent=False, binary=slow.script)
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(server.start)
        arguments = slow.arguments()
        chosen = int(arguments[arguments.index(flag) + 1])
        with socket.create_server(("127.0.0.1", chosen)):
            slow.go_on()
            starting.result()
            assert server.pid is not None
            assert str(chosen) not in arguments_of(server.pid)
    server.stop()


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A Temporal server that answers has come before ours to the port that was asked for."""
    slow = SlowTemporal(tmp_path)
    port = free_port()
    server = OpenTemporal(
        tmp_path / "ours", persistent=False, ui=False, port=port, binary=slow.script
    )
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(server.start)
        slow.arguments()
        with OpenTemporal(tmp_path / "other", persistent=False, ui=False, port=port) as other:
            slow.go_on()
            with pytest.raises(PortIsTakenError, match=f"Port {port} for Temporal is taken"):
                starting.result()
            assert server.pid is None
            assert other.pid is not None


def test_a_failed_start_tells_the_logs_tail_and_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ServerFailedError, match=r"(?s)exited with 1.*--nonsense"):
        OpenTemporal(tmp_path, extra_arguments=["--nonsense"]).start()
    with OpenTemporal(tmp_path, persistent=False, ui=False):
        pass


def test_a_server_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    (tmp_path / "mute").write_text("#!/bin/sh\necho $$ is mute\nexec sleep 60\n")
    (tmp_path / "mute").chmod(0o755)
    server = OpenTemporal(tmp_path, binary=tmp_path / "mute", start_timeout=0.5)
    with pytest.raises(ServerFailedError, match=r"within 0\.5 s.*\n\d+ is mute") as failure:
        server.start()
    said = re.search(r"(\d+) is mute", str(failure.value))
    assert said is not None
    assert start_time(int(said[1])) is None


def test_a_missing_program_is_said(tmp_path: Path) -> None:
    with pytest.raises(StandaloneError, match=r"There is no program .*/nowhere\. Install"):
        OpenTemporal(tmp_path, binary=tmp_path / "nowhere").start()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match="Not a directory"):
        OpenTemporal(tmp_path / "file" / "data").start()
