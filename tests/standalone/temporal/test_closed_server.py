"""A Temporal that only the owner of its data folder reaches; tried as everybody else."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from core.temporal.client import SOCKET_SCHEME, EmbeddedTemporalSettings, connect
from standalone.errors import DataFolderIsInUseError, NoNetworkOfItsOwnError, ServerFailedError
from standalone.servers.child import wait_until
from standalone.servers.ownership import start_time
from standalone.temporal.closed_server import ClosedTemporal
from standalone.temporal.process_file import ProcessFile

NOBODY = 65534
PARENT = """
import sys, time; from pathlib import Path
from standalone.temporal.closed_server import ClosedTemporal
with ClosedTemporal(Path(sys.argv[1]), ui=False) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""
START = """
import sys; from pathlib import Path
from standalone.temporal.closed_server import ClosedTemporal
ClosedTemporal(Path(sys.argv[1]), ui=False).start()
"""
KNOCK = """
import socket, sys
knocking = socket.socket(socket.AF_UNIX)
knocking.connect(sys.argv[1])
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def socket_of(server: ClosedTemporal) -> Path:
    return Path(server.settings.temporal_address.removeprefix(SOCKET_SCHEME))


async def test_workflows_outlive_kill_9_and_a_restart(tmp_path: Path) -> None:
    server = ClosedTemporal(tmp_path, ui=False, namespace="shop")
    async with server:
        client = await connect(server.settings)
        await client.start_workflow("Anything", id="kept", task_queue="nobody-listens")
        first = server.settings.temporal_secret
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert await asyncio.wait_for(server.exited(), 60) == -signal.SIGKILL
        assert server.pid is None
        # Twice: after kill -9, and after an orderly stop.
        for _ in range(2):
            await asyncio.to_thread(server.start)
            assert server.settings.temporal_secret != first
            client = await connect(server.settings)
            description = await client.get_workflow_handle("kept").describe()
            assert description.status == WorkflowExecutionStatus.RUNNING
            await asyncio.to_thread(server.stop)
    assert (tmp_path / "temporal.db").stat().st_mode & 0o777 == 0o600


async def test_what_was_asked_for_is_there_when_the_start_returns(tmp_path: Path) -> None:
    async with (
        ClosedTemporal(
            tmp_path, persistent=False, search_attributes={"Project": "Keyword"}
        ) as server,
        server.ui_client() as http,
    ):
        page = await http.get("/")
        assert (page.status_code, "<!doctype html>" in page.text.lower()) == (200, True)
    assert not (tmp_path / "temporal.db").exists()


def test_it_lives_in_a_network_of_its_own(tmp_path: Path) -> None:
    with ClosedTemporal(tmp_path, persistent=False) as server:
        proc = Path(f"/proc/{server.pid}")
        ours = Path("/proc/self/ns/net").readlink()
        assert (proc / "ns/net").readlink() != ours
        interfaces = (proc / "net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        # What looks after it is no way in either.
        relay = int((proc / "stat").read_text().rpartition(")")[2].split()[1])
        assert Path(f"/proc/{relay}/ns/net").readlink() != ours


async def test_the_secret_is_needed_and_stands_nowhere(tmp_path: Path) -> None:
    async with ClosedTemporal(tmp_path, persistent=False) as server:
        secret = server.settings.temporal_secret.get_secret_value()
        for wrong in ("", secret[:-1], f"{secret}x"):
            settings = server.settings.model_copy(update={"temporal_secret": SecretStr(wrong)})
            with pytest.raises((ConnectionError, RPCError)):
                await connect(settings)
        path = str(socket_of(server))
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path)) as http:
            assert (await http.get("http://temporal/")).status_code == 407
        assert secret not in repr(server.settings)
        await asyncio.to_thread(_look_for, secret.encode(), tmp_path)


def _look_for(secret: bytes, folder: Path) -> None:
    """Fail if the secret stands in a file, an argument or a variable."""
    for name in ("cmdline", "environ"):
        for shown in Path("/proc").glob(f"[0-9]*/{name}"):
            # Others have ended, or are not ours to look into.
            with suppress(OSError):
                assert secret not in shown.read_bytes()
    for entry in folder.rglob("*"):
        assert not entry.is_file() or secret not in entry.read_bytes()


@as_root
def test_another_account_does_not_get_to_the_socket(open_folder: Path) -> None:
    folder = open_folder / "closed"
    with ClosedTemporal(folder, persistent=False, ui=False) as server:
        path = socket_of(server)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        # Also if somebody has opened the folders above.
        folder.chmod(0o755)
        tried = subprocess.run(
            [_open_python(), "-I", "-S", "-c", KNOCK, str(path)],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert "PermissionError" in tried.stderr, tried


def _open_python() -> str:
    """An interpreter that every account may run."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("this machine has no interpreter of its own")
    return found


def test_a_file_is_written_for_commands_of_the_owner(tmp_path: Path) -> None:
    with ClosedTemporal(tmp_path, persistent=False, ui=False) as server:
        assert ProcessFile(tmp_path).read() == server.pid
        assert (tmp_path / "temporal.process").stat().st_mode & 0o777 == 0o600
    assert ProcessFile(tmp_path).read() is None


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', '{"pid": "x", "started": "1"}', None])
def test_a_file_that_names_no_process_of_ours_is_not_believed(
    tmp_path: Path, text: str | None
) -> None:
    noted = text or f'{{"pid": {os.getpid()}, "started": "1"}}'
    (tmp_path / "temporal.process").write_text(noted)
    assert ProcessFile(tmp_path).read() is None


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
        ClosedTemporal(tmp_path, ui=False).start()
    parent.kill()
    parent.wait()
    with ClosedTemporal(tmp_path, ui=False) as server:
        assert wait_until(lambda: start_time(pid) is None, timeout=60)
        assert server.pid != pid
    parent.stdout.close()


def test_a_data_folder_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 20)
    with ClosedTemporal(folder, persistent=False, ui=False) as server:
        path = socket_of(server)
        assert not path.is_relative_to(folder)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        asyncio.run(_describe(server.settings))


async def _describe(settings: EmbeddedTemporalSettings) -> None:
    await (await connect(settings)).service_client.check_health()


def test_a_failed_start_tells_the_logs_tail_and_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ServerFailedError, match=r"(?s)exited with 1.*--nonsense"):
        ClosedTemporal(tmp_path, extra_arguments=["--nonsense"]).start()
    with ClosedTemporal(tmp_path, persistent=False, ui=False):
        pass


def test_a_program_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "no-program").write_text("\x00")
    (tmp_path / "no-program").chmod(0o755)
    with pytest.raises(ServerFailedError, match=r"(?s)exited with 1\..*cannot run"):
        ClosedTemporal(tmp_path / "data", binary=tmp_path / "no-program").start()


def test_where_there_is_no_network_to_be_had_the_ways_out_are_named(tmp_path: Path) -> None:
    """The limits of a user namespace stand for a machine that allows none."""
    limits = ("max_user_namespaces", "max_net_namespaces")
    none = " && ".join(f"echo 0 > /proc/sys/user/{name}" for name in limits)
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{none} && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine has no user namespaces to try it in")
    tried = subprocess.run(
        [*inside, sys.executable, "-c", START, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert NoNetworkOfItsOwnError.__name__ in tried.stderr, tried
    for way_out in ("as root", "sysctl", "TEMPORAL_ADDRESS", "--temporal-open"):
        assert way_out in tried.stderr
    assert not (tmp_path / "temporal.db").exists()
