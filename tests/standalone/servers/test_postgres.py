import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from standalone.errors import (
    DataFolderError,
    DataFolderIsInUseError,
    PortIsTakenError,
    PostgresVersionError,
    ServerFailedError,
    StandaloneError,
)
from standalone.servers.binaries import PostgresBinaries
from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import start_time
from standalone.servers.postgres import EmbeddedPostgres
from standalone.servers.unprivileged import User
from tests.support.ports import free_port
from tests.support.stack.processes import children_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts Postgres as another user")

PARENT = """
import sys, time; from pathlib import Path; from standalone.servers.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as postgres:
    print(postgres.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def data_folder(open_folder: Path) -> Path:
    """A data folder with a cluster, which the tests of this module take turns to serve."""
    folder = open_folder / "data"
    with EmbeddedPostgres(folder, durable=False):
        pass
    return folder


@pytest.fixture
def postgres(data_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(data_folder, durable=False) as running:
        yield running


def ask(postgres: EmbeddedPostgres, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def setting(postgres: EmbeddedPostgres, name: str) -> object:
    return ask(postgres, f"SHOW {name}")[0][0]


def family(pid: int | None) -> list[int]:
    """The server and the processes that it has started."""
    assert pid is not None
    children = children_of(pid)
    assert len(children) >= 4
    return [pid, *children]


def all_gone(pids: list[int]) -> bool:
    return all(start_time(pid) is None for pid in pids)


def owner_of(path: Path) -> User | None:
    """The user that the server runs as, if that is not this process's user."""
    return User.by_uid(path.stat().st_uid) if os.geteuid() == 0 else None


def killed_while_running(postgres: EmbeddedPostgres) -> None:
    """Leave behind what a postmaster leaves that gets kill -9."""
    processes = family(postgres.pid)
    os.kill(processes[0], signal.SIGKILL)
    assert wait_until(lambda: all_gone(processes), timeout=10)
    postgres.stop()


class TestLasting:
    def test_data_and_password_outlive_a_restart(self, data_folder: Path) -> None:
        with EmbeddedPostgres(data_folder, durable=False) as first:
            ask(first, "CREATE TABLE restart AS SELECT 7 AS seven")
            password = first.password
        with EmbeddedPostgres(data_folder, durable=False) as second:
            assert ask(second, "TABLE restart") == [(7,)]
            assert second.password == password

    def test_one_object_starts_and_stops_again(self, data_folder: Path) -> None:
        postgres = EmbeddedPostgres(data_folder, durable=False)
        postgres.stop()
        for _ in range(2):
            postgres.start()
            postgres.start()
            assert ask(postgres, "SELECT 1") == [(1,)]
            postgres.stop()
            postgres.stop()
            assert postgres.pid is None

    async def test_a_killed_server_is_noticed_and_recovers(self, data_folder: Path) -> None:
        async with EmbeddedPostgres(data_folder) as postgres:
            ask(postgres, "CREATE TABLE crash AS SELECT 8 AS eight")
            assert postgres.pid is not None
            os.kill(postgres.pid, signal.SIGKILL)
            assert await asyncio.wait_for(postgres.exited(), 10) == -signal.SIGKILL
            await asyncio.to_thread(postgres.start)
            assert ask(postgres, "TABLE crash") == [(8,)]
            assert "automatic recovery in progress" in postgres.log.read_text()

    def test_after_kill_9_of_the_parent_nothing_runs_and_the_next_starts_at_once(
        self, data_folder: Path
    ) -> None:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(data_folder)], stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        processes = family(int(parent.stdout.readline()))
        with pytest.raises(DataFolderIsInUseError, match=f"process {parent.pid} "):
            EmbeddedPostgres(data_folder, durable=False).start()
        parent.kill()
        parent.wait()
        with EmbeddedPostgres(data_folder, durable=False) as postgres:
            assert ask(postgres, "SELECT 1") == [(1,)]
        assert wait_until(lambda: all_gone(processes), timeout=20)
        parent.stdout.close()

    def test_an_interrupted_initdb_is_redone(self, open_folder: Path) -> None:
        folder = open_folder / "interrupted"
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.DEVNULL
        )
        assert wait_until(
            lambda: any(folder.glob("cluster.new-*/PG_VERSION")), timeout=20, pause=0.001
        )
        parent.kill()
        parent.wait()
        assert not (folder / "cluster").exists()
        with EmbeddedPostgres(folder, durable=False) as postgres:
            assert ask(postgres, "SELECT 1") == [(1,)]
        assert not list(folder.glob("cluster.new-*"))


class TestOwnership:
    def test_a_second_owner_is_refused(self, postgres: EmbeddedPostgres, data_folder: Path) -> None:
        with pytest.raises(DataFolderIsInUseError, match=f"in use by process {os.getpid()} "):
            EmbeddedPostgres(data_folder).start()
        assert ask(postgres, "SELECT 1") == [(1,)]

    def test_a_stale_pid_file_harms_neither_a_stranger_nor_the_start(
        self, data_folder: Path
    ) -> None:
        postgres = EmbeddedPostgres(data_folder, durable=False)
        postgres.start()
        killed_while_running(postgres)
        user = owner_of(data_folder)
        stranger = subprocess.Popen(["/bin/sleep", "60"], user=user.uid if user else None)
        try:
            for path in (
                data_folder / "cluster" / "postmaster.pid",
                data_folder / "socket" / ".s.PGSQL.5432.lock",
            ):
                rest = path.read_text().split("\n", 1)[1]
                path.write_text(f"{stranger.pid}\n{rest}")
            with postgres:
                assert ask(postgres, "SELECT 1") == [(1,)]
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_a_server_that_somebody_else_has_started_is_left_alone(
        self, data_folder: Path, tmp_path: Path
    ) -> None:
        sockets = data_folder / "socket"
        stranger = Child.start(
            [
                PostgresBinaries.find().program("postgres"),
                *("-D", data_folder / "cluster", "-k", sockets, "-h", ""),
            ],
            log=tmp_path / "log",
            death_signal=signal.SIGQUIT,
            user=owner_of(data_folder),
        )
        pid_file = data_folder / "cluster" / "postmaster.pid"
        assert wait_until(lambda: "ready" in _text_of(pid_file), timeout=20)
        with pytest.raises(DataFolderIsInUseError, match=f"Process {stranger.pid} seems"):
            EmbeddedPostgres(data_folder, durable=False).start()
        assert stranger.is_alive
        assert (sockets / ".s.PGSQL.5432").is_socket()
        assert stranger.stop((signal.SIGINT, 10)) == 0

    async def test_a_cancelled_start_leaves_nothing(self, data_folder: Path) -> None:
        postgres = EmbeddedPostgres(data_folder, durable=False)
        starting = asyncio.ensure_future(postgres.__aenter__())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert postgres.pid is None
        with EmbeddedPostgres(data_folder, durable=False):
            pass


class TestFolder:
    def test_everything_is_closed_to_others(
        self, postgres: EmbeddedPostgres, data_folder: Path
    ) -> None:
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in data_folder.iterdir()}
        assert modes["password"] == modes["owner.lock"] == modes["server.log"] == "0o600"
        assert modes["cluster"] == modes["socket"] == "0o700"
        assert data_folder.stat().st_mode & 0o777 == 0o700
        assert (data_folder / "password").read_text() == postgres.password

    def test_a_long_path_gets_its_socket_elsewhere(
        self, open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = open_folder / ("x" * 110)
        with EmbeddedPostgres(folder, durable=False) as postgres:
            socket_folder = Path(postgres.host)
            assert socket_folder.stat().st_mode & 0o777 == 0o700
            assert ask(postgres, "SELECT 1") == [(1,)]
            killed_while_running(postgres)
        assert not socket_folder.exists()
        # A predecessor that got kill -9 has left its socket folder and the note about it.
        socket_folder.mkdir(mode=0o700)
        (socket_folder / ".s.PGSQL.5432").touch()
        (folder / "socket-folder").write_text(str(socket_folder))
        with EmbeddedPostgres(folder, durable=False) as postgres:
            assert ask(postgres, "SELECT 1") == [(1,)]
            assert not socket_folder.exists()
        # A temporary folder that is no use, be it too long or closed, is passed over.
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("y" * 110)))
        with EmbeddedPostgres(folder, durable=False) as postgres:
            assert Path(postgres.host).parent == Path("/tmp").resolve()  # noqa: S108 - what is tested
        assert not Path(postgres.host).exists()

    def test_a_folder_with_other_files_is_not_touched(self, open_folder: Path) -> None:
        folder = open_folder / "home"
        folder.mkdir(mode=0o755)
        (folder / "letter").touch()
        with pytest.raises(DataFolderError, match="holds other files"):
            EmbeddedPostgres(folder).start()
        assert [path.name for path in folder.iterdir()] == ["letter"]
        assert folder.stat().st_mode & 0o777 == 0o755
        assert folder.stat().st_uid == os.geteuid()

    def test_a_lost_password_is_said(self, open_folder: Path) -> None:
        folder = open_folder / "no-password"
        (folder / "cluster").mkdir(parents=True)
        (folder / "owner.lock").touch()
        with pytest.raises(DataFolderError, match=r"no-password/password is missing"):
            EmbeddedPostgres(folder).start()

    @as_root
    def test_a_folder_out_of_the_servers_reach_is_said(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(DataFolderError, match=r"cannot enter /\S*closed"):
            EmbeddedPostgres(closed / "data").start()
        assert not (closed / "data").exists()
        assert closed.stat().st_mode & 0o777 == 0o700


class TestBinaries:
    def test_data_of_another_major_version_is_refused(self, open_folder: Path) -> None:
        folder = open_folder / "old"
        (folder / "cluster").mkdir(parents=True)
        (folder / "owner.lock").touch()
        (folder / "cluster" / "PG_VERSION").write_text("12\n")
        with pytest.raises(PostgresVersionError, match=r"Postgres 12, but these binaries are 17"):
            EmbeddedPostgres(folder).start()

    def test_old_binaries_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        for name in ("postgres", "initdb"):
            (tmp_path / "bin" / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.11'\n")
            (tmp_path / "bin" / name).chmod(0o755)
        with pytest.raises(PostgresVersionError, match=r"14\.11; control-plane needs 15 or later"):
            PostgresBinaries.find(tmp_path)

    def test_a_folder_without_postgres_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(StandaloneError, match="There is no Postgres in"):
            PostgresBinaries.find(tmp_path)

    @as_root
    def test_binaries_out_of_the_servers_reach_are_copied_once(self, open_folder: Path) -> None:
        closed = open_folder / "closed"
        closed.mkdir(mode=0o700)
        shutil.copytree(PostgresBinaries.find().folder, closed / "postgres")
        folder = open_folder / "beside"
        copies = []
        for _ in range(2):
            with EmbeddedPostgres(folder, durable=False, binaries=closed / "postgres") as postgres:
                executable = Path(f"/proc/{postgres.pid}/exe").readlink()
                copy = executable.parent.parent
                copies.append((copy, copy.stat().st_ino))
        assert copies[0] == copies[1]
        assert copy.parent == folder.resolve()
        assert copy.name.startswith("binaries-")
        assert closed.stat().st_mode & 0o777 == 0o700

    @pytest.mark.skipif(
        not Path("/usr/lib/postgresql/15/bin/postgres").exists(),
        reason="needs Debian's Postgres 15",
    )
    def test_another_postgres_serves_as_well(self, open_folder: Path) -> None:
        postgres = EmbeddedPostgres(
            open_folder / "debian", durable=False, binaries=Path("/usr/lib/postgresql/15")
        )
        with postgres:
            assert str(setting(postgres, "server_version")).startswith("15.")


class TestServing:
    def test_sockets_only_unless_a_port_is_asked_for(self, postgres: EmbeddedPostgres) -> None:
        assert setting(postgres, "listen_addresses") == ""
        assert setting(postgres, "fsync") == "off"
        assert setting(postgres, "server_encoding") == "UTF8"
        assert ask(postgres, "SELECT datcollate FROM pg_database LIMIT 1") == [("C",)]

    def test_a_port_needs_the_password(self, data_folder: Path) -> None:
        port = free_port()
        with EmbeddedPostgres(data_folder, port=port, max_connections=20) as postgres:
            assert setting(postgres, "fsync") == "on"
            assert setting(postgres, "max_connections") == "20"
            address = f"host=127.0.0.1 port={port} dbname=postgres user={postgres.user}"
            with psycopg.connect(f"{address} password={postgres.password}") as connection:
                assert connection.execute("SELECT inet_server_port()").fetchall() == [(port,)]
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(f"{address} password=wrong")
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(postgres.conninfo(), password="wrong")

    def test_a_taken_port_is_said(self, data_folder: Path, open_folder: Path) -> None:
        port = free_port()
        with (
            EmbeddedPostgres(data_folder, durable=False, port=port),
            pytest.raises(PortIsTakenError, match=f"Port {port} for Postgres is taken"),
        ):
            EmbeddedPostgres(open_folder / "second", durable=False, port=port).start()
        assert not (open_folder / "second").exists()

    def test_a_database_is_made_once(self, postgres: EmbeddedPostgres) -> None:
        postgres.create_database("things")
        with psycopg.connect(postgres.conninfo("things"), autocommit=True) as connection:
            connection.execute("CREATE TABLE things AS SELECT 9 AS nine")
        postgres.create_database("things")
        with psycopg.connect(postgres.conninfo("things")) as connection:
            assert connection.execute("TABLE things").fetchall() == [(9,)]
        assert postgres.environment("things") == {
            "POSTGRES_HOST": postgres.host,
            "POSTGRES_PORT": "5432",
            "POSTGRES_DB": "things",
            "POSTGRES_USER": postgres.user,
            "POSTGRES_PASSWORD": postgres.password,
        }

    def test_a_failed_start_tells_the_logs_tail_and_frees_the_folder(
        self, data_folder: Path
    ) -> None:
        with pytest.raises(ServerFailedError, match=r"(?s)exited with 1\. .*max_connections"):
            EmbeddedPostgres(data_folder, durable=False, max_connections=-1).start()
        with EmbeddedPostgres(data_folder, durable=False):
            pass

    @as_root
    def test_the_server_is_not_root(self, postgres: EmbeddedPostgres, data_folder: Path) -> None:
        assert postgres.pid is not None
        uid = Path(f"/proc/{postgres.pid}").stat().st_uid
        assert uid == data_folder.stat().st_uid
        assert pwd.getpwuid(uid).pw_name in {"postgres", "nobody"}


def _text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""
