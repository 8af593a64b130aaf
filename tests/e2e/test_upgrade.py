"""The schema is brought up to date while an API of the code before serves requests."""

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from core.settings import RegistrySettings
from registry.database.migrate import MIGRATIONS, alembic_config
from tests.support.harness import STANDARD
from tests.support.servers import Addresses, connect, environment_of
from tests.support.stack.processes import Program, wait_for
from tests.support.stack.rolling import Client, load
from tests.support.stack.stack import API_KEY, environment_for

log = logging.getLogger(__name__)

# Migrations that are to come: a column for each of these tables, and then an index.
TABLES = ("invocations", "executions", "functions")
A_COLUMN = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {revision!r}, {before!r}
def upgrade():
    op.add_column({table!r}, sa.Column("mood", sa.Text, nullable=False, server_default="good"))
"""
AN_INDEX = """
from registry.database.migrate import create_index_concurrently
revision, down_revision = "next", {before!r}
def upgrade():
    create_index_concurrently("ix_invocations_mood", "invocations (mood)")
"""
MIGRATE = """
import sys
from pathlib import Path
import registry.database.migrate
from runtime.logging import configure_logging
from core.settings import RegistrySettings, load
configure_logging()
registry.database.migrate.MIGRATIONS = Path(sys.argv[1])
registry.database.migrate.upgrade(load(RegistrySettings))
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """Our migrations, and those to come."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = ScriptDirectory.from_config(alembic_config()).get_current_head()
    versions = folder / "versions"
    for table in TABLES:
        revision = f"next_{table}"
        text = A_COLUMN.format(revision=revision, before=before, table=table)
        (versions / f"{revision}.py").write_text(text)
        before = revision
    (versions / "next.py").write_text(AN_INDEX.format(before=before))
    return folder


@contextmanager
def migrate(
    settings: RegistrySettings, migrations: Path, output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (
        output.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, migrations],
            env=environment_of(settings),
            cwd="/",
            stdout=out,
            stderr=out,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(300)
def test_migrations_under_load_fail_no_request(
    servers: Addresses, registry_settings: RegistrySettings, migrations: Path, tmp_path: Path
) -> None:
    """Two at once, of which one is kept waiting for a table that is in use."""
    program = Program(
        "api",
        "--provisioner=dev",
        "--host=127.0.0.1",
        "--port=0",
        environment=environment_for(registry_settings, servers),
        folder=tmp_path / "api",
    )
    outputs = [tmp_path / "first", tmp_path / "second"]
    database = connect(registry_settings, database=registry_settings.postgres_db)
    try:
        urls = [f"http://127.0.0.1:{program.event('api_listening')['port']}"]

        def client() -> Client:
            return Client(urls, API_KEY, keep_alive=True)

        deployer = client()
        deployer.call("PUT", "/projects/shop")
        version = {"default_docker_image": "image:1", "functions": [STANDARD]}
        deployed = deployer.call("POST", "/projects/shop/versions", json=version)
        collection = (
            f"/projects/shop/versions/{deployed['version_id']}/functions/standard/invocations"
        )
        deployer.close()

        def invoke_and_cancel(client: Client) -> None:
            made = client.call("POST", collection, json={"input": json.dumps(1)})
            path = f"{collection}/{made['invocation_id']}"
            assert client.call("GET", path)["input"] == "1"
            client.call("PUT", f"{path}/cancel")
            client.call("GET", collection)

        with load() as clients:
            for _ in range(4):
                clients.add(client(), invoke_and_cancel)
            # As a backup does.
            database.execute("BEGIN")
            database.execute("SELECT count(*) FROM invocations")
            with (
                migrate(registry_settings, migrations, outputs[0]) as first,
                migrate(registry_settings, migrations, outputs[1]) as second,
            ):
                wait_for(lambda: any("registry_is_in_use" in o.read_text() for o in outputs))
                database.execute("COMMIT")
                began = time.monotonic()
                codes = [first.wait(60), second.wait(60)]
                log.info("migrated after %.2f s", time.monotonic() - began)
        says = "\n".join(output.read_text() for output in outputs)
        assert codes == [0, 0], says
        assert "deadlock" not in says
        log.info("%s", dict(clients.calls))
        assert clients.errors == []
        assert clients.calls["answered"] > 10
        found = database.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_invocations_mood'::regclass"
        ).fetchall()
        assert found == [(True,)]
    finally:
        database.close()
        program.kill()
