"""The servers that all tests of a session share: one embedded Postgres, one Temporal dev server.

The first pytest process starts them; xdist's workers get their addresses.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypedDict

import psycopg
from psycopg import sql
from pydantic import SecretStr

from core.settings import RegistrySettings
from core.temporal.client import SEARCH_ATTRIBUTES
from registry.database.migrate import upgrade
from standalone.servers.postgres import EmbeddedPostgres
from standalone.temporal.open_server import OpenTemporal
from tests.support.folders import server_folder

TEMPLATE_DATABASE = "template_control_plane"


class Addresses(TypedDict):
    """What xdist hands to its workers: plain values only."""

    postgres_host: str
    postgres_port: int
    postgres_user: str
    postgres_password: str
    temporal_address: str


class Servers:
    """Started by the first pytest process, stopped at its end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.addresses: Addresses | None = None

    def start(self) -> Addresses:
        if self.addresses is not None:
            return self.addresses
        folder = self._stack.enter_context(server_folder("tests"))
        postgres = EmbeddedPostgres(folder / "postgres", durable=False, max_connections=400)
        self._stack.enter_context(postgres)
        temporal = OpenTemporal(
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
        _let_connections_be_cheap(self.addresses)
        postgres.create_database(TEMPLATE_DATABASE)
        upgrade(registry_settings(self.addresses, TEMPLATE_DATABASE))
        return self.addresses

    def stop(self) -> None:
        self._stack.close()


def _let_connections_be_cheap(addresses: Addresses) -> None:
    """Store the password anew, hashed once: by default each connection hashes it 4,096 times.

    That took 4 of the 5 milliseconds of processor time that a connection cost, thousands of times.
    """
    settings = registry_settings(addresses, "postgres")
    change = sql.SQL("ALTER USER {} PASSWORD {}").format(
        sql.Identifier(addresses["postgres_user"]), sql.Literal(addresses["postgres_password"])
    )
    with connect(settings, database=settings.postgres_db) as connection:
        connection.execute("SET scram_iterations = 1")
        connection.execute(change)


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
