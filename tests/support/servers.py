"""The servers that all tests of a session share: one embedded Postgres, one Temporal dev server.

The first pytest process starts them; xdist's workers get their addresses.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypedDict

import psycopg
from psycopg import sql
from pydantic import SecretStr

from core.settings import RegistrySettings
from core.temporal.client import SEARCH_ATTRIBUTES
from registry.database.migrate import upgrade
from standalone.servers.postgres import EmbeddedPostgres
from standalone.servers.temporal import TemporalDevServer

TEMPLATE_DATABASE = "template_control_plane"


class Addresses(TypedDict):
    """What xdist hands to its workers: plain values only."""

    postgres_host: str
    postgres_port: int
    postgres_user: str
    postgres_password: str
    temporal_address: str


_MEMORY = Path("/dev/shm")  # noqa: S108 # only a folder of our own in it is used
_MEMORY_NEEDED = 2 * 1024**3


def _memory() -> Path | None:
    """A file system in memory, if there is one with room: databases are made there in a tenth.

    Containers often have a small one, and may not let programs run from it: as root, Postgres runs
    from a copy in its data folder.
    """
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    roomy = found.f_bavail * found.f_frsize >= _MEMORY_NEEDED
    return _MEMORY if roomy and not found.f_flag & os.ST_NOEXEC else None


class Servers:
    """Started by the first pytest process, stopped at its end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.addresses: Addresses | None = None

    def start(self) -> Addresses:
        if self.addresses is not None:
            return self.addresses
        folder = Path(tempfile.mkdtemp(prefix="control-plane-tests-", dir=_memory()))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # Postgres may run as another user, who must get through to its own folder below.
        folder.chmod(0o711)
        postgres = EmbeddedPostgres(folder / "postgres", durable=False, max_connections=400)
        self._stack.enter_context(postgres)
        temporal = TemporalDevServer(
            folder / "temporal",
            persistent=False,
            ui=False,
            search_attributes=SEARCH_ATTRIBUTES,
        )
        self._stack.enter_context(temporal)
        self.addresses = {
            "postgres_host": postgres.host,
            "postgres_port": postgres.port,
            "postgres_user": postgres.user,
            "postgres_password": postgres.password,
            "temporal_address": temporal.address,
        }
        postgres.create_database(TEMPLATE_DATABASE)
        upgrade(registry_settings(self.addresses, TEMPLATE_DATABASE))
        return self.addresses

    def stop(self) -> None:
        self._stack.close()


def registry_settings(addresses: Addresses, database: str) -> RegistrySettings:
    return RegistrySettings(
        postgres_host=addresses["postgres_host"],
        postgres_port=addresses["postgres_port"],
        postgres_db=database,
        postgres_user=addresses["postgres_user"],
        postgres_password=SecretStr(addresses["postgres_password"]),
    )


def connect(settings: RegistrySettings, *, database: str) -> psycopg.Connection:
    """Connect to a database of the server; each statement is a transaction of its own."""
    return psycopg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
        dbname=database,
        autocommit=True,
    )


@contextmanager
def fresh_database(addresses: Addresses, *, template: str) -> Iterator[RegistrySettings]:
    """A database of one test's own, copied from `template`."""
    name = f"test_{uuid.uuid4().hex}"
    # Copied as files: through the write-ahead log, as is the default, it takes twice as long.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    settings = registry_settings(addresses, name)
    with connect(settings, database="postgres") as connection:
        connection.execute(create)
        try:
            yield settings
        finally:
            connection.execute(drop)


def environment_of(settings: RegistrySettings) -> dict[str, str]:
    """The variables for a real process that is to use a test's database."""
    return {
        "PATH": os.environ["PATH"],
        "POSTGRES_HOST": settings.postgres_host,
        "POSTGRES_PORT": str(settings.postgres_port),
        "POSTGRES_DB": settings.postgres_db,
        "POSTGRES_USER": settings.postgres_user,
        "POSTGRES_PASSWORD": settings.postgres_password.get_secret_value(),
    }
