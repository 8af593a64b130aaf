"""Migrations: they make what the tables say, together, from anywhere, and can be undone."""

import asyncio
import sys
from pathlib import Path

import pytest
from alembic import command
from click.testing import CliRunner
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from core.settings import RegistrySettings
from registry.database.engine import registry_url
from registry.database.migrate import alembic_config, drop_all_tables, upgrade
from registry.database.tables import Base
from runtime.migrate_command import migrate
from tests.support.servers import environment_of


def _table_names(settings: RegistrySettings) -> set[str]:
    return set(inspect(create_engine(registry_url(settings), poolclass=NullPool)).get_table_names())


OURS = set(Base.metadata.tables) | {"alembic_version"}


def test_autogenerate_finds_nothing_to_add(registry_settings: RegistrySettings) -> None:
    engine = create_engine(registry_url(registry_settings), poolclass=NullPool)
    with engine.connect() as connection:
        command.check(alembic_config(connection))


def test_it_can_be_undone_and_done_again(registry_settings: RegistrySettings) -> None:
    engine = create_engine(registry_url(registry_settings), poolclass=NullPool)
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert _table_names(registry_settings) == {"alembic_version"}
    upgrade(registry_settings)
    assert _table_names(registry_settings) == OURS


def test_all_tables_can_be_dropped_also_when_there_are_none(
    registry_settings: RegistrySettings,
) -> None:
    drop_all_tables(registry_settings)
    drop_all_tables(registry_settings)
    assert _table_names(registry_settings) == set()


async def test_several_commands_at_once_wait_for_each_other(
    registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    await asyncio.to_thread(drop_all_tables, registry_settings)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from runtime.migrate_command import migrate; migrate()",
            env=environment_of(registry_settings),
            # From anywhere: nothing is looked up in the working directory.
            cwd=tmp_path,
        )
        for _ in range(3)
    ]
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert _table_names(registry_settings) == OURS


def test_a_locked_table_fails_it_soon_instead_of_stopping_everything(
    registry_settings: RegistrySettings,
) -> None:
    engine = create_engine(registry_url(registry_settings), poolclass=NullPool)
    with engine.connect() as blocker, engine.connect() as connection:
        # Of the newest migration: each one that is undone is a transaction of its own.
        blocker.execute(text("LOCK TABLE token_secret"))
        with pytest.raises(OperationalError, match="lock timeout"):
            command.downgrade(alembic_config(connection), "base")
    assert _table_names(registry_settings) == OURS


def test_dropping_does_not_wait_for_a_locked_table_without_end(
    registry_settings: RegistrySettings,
) -> None:
    engine = create_engine(registry_url(registry_settings), poolclass=NullPool)
    with engine.connect() as blocker:
        blocker.execute(text("SELECT * FROM log_chunks"))
        with pytest.raises(OperationalError, match="lock timeout"):
            drop_all_tables(registry_settings, lock_seconds=0.1)
        assert _table_names(registry_settings) == OURS
    drop_all_tables(registry_settings)
    assert _table_names(registry_settings) == set()


def test_without_postgres_the_command_says_so_in_one_line(
    registry_settings: RegistrySettings,
) -> None:
    environment = {**environment_of(registry_settings), "POSTGRES_PORT": "1"}
    environment["POSTGRES_HOST"] = "127.0.0.1"
    result = CliRunner(env=environment).invoke(migrate, ["--wait", "0.3"])
    assert result.exit_code == 1
    assert "Error: Postgres: " in result.output


def test_a_missing_setting_is_named(registry_settings: RegistrySettings) -> None:
    del registry_settings
    result = CliRunner(env={"POSTGRES_DB": None}).invoke(migrate)
    assert result.exit_code == 1
    assert "Environment variable POSTGRES_DB not found" in result.output
