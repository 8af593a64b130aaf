"""Announcements of changes: who hears them, and that nothing is missed while nobody listens."""

import asyncio
from contextlib import suppress

import psycopg
import pytest
import structlog
from sqlalchemy import text

from core.settings import RegistrySettings
from registry.changes import Changes, announce
from registry.database.engine import Registry
from tests.registry.queries.test_queries import statements_of
from tests.support.harness import eventually, eventually_true, heard

_LISTENERS = text(
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'control-plane-changes'"
    " AND state = 'idle' AND query LIKE 'LISTEN%'"
)


async def listeners(registry: Registry) -> list[int]:
    async with registry.autocommit() as session:
        return list(await session.scalars(_LISTENERS))


async def tell(registry: Registry, *subjects: str) -> None:
    async with registry.transaction() as session:
        await announce(session, *subjects)


async def test_every_watcher_of_a_subject_hears_of_its_change_and_no_other(
    registry: Registry, changes: Changes
) -> None:
    with (
        changes.watch("inv-1") as first,
        changes.watch("inv-1") as second,
        changes.watch("inv-2") as other,
        changes.watch("inv-3") as last,
    ):
        await tell(registry, "inv-1")
        await heard(first)
        await heard(second)
        # Announcements arrive in the order of commits.
        await tell(registry, "inv-3")
        await heard(last)
        assert not other.is_set()


async def test_a_change_is_announced_by_its_commit_and_not_by_a_rollback(
    registry: Registry, changes: Changes
) -> None:
    with changes.watch("rolled back") as rolled_back, changes.watch("committed") as committed:
        with suppress(LookupError):
            async with registry.transaction() as session:
                await announce(session, "rolled back")
                raise LookupError
        async with registry.transaction() as session:
            await announce(session, "committed")
            await tell(registry, "a later one, committed earlier")
            assert not committed.is_set()
        await heard(committed)
        assert not rolled_back.is_set()


async def test_many_subjects_are_announced_in_one_statement(
    registry: Registry, changes: Changes
) -> None:
    subjects = [f"inv-{number}" for number in range(1000)]
    with changes.watch("inv-0") as first, changes.watch("inv-999") as last:
        with statements_of(registry) as statements:
            await tell(registry, *subjects)
            await tell(registry)
        await heard(first)
        await heard(last)
    assert len(statements) == 1


async def test_who_no_longer_watches_is_forgotten(changes: Changes) -> None:
    with changes.watch("inv-1"), changes.watch("inv-1"), changes.watch("inv-2"):
        assert changes.watcher_count == 3
    assert changes.watcher_count == 0


async def test_a_lost_connection_is_made_again_and_every_watcher_told_to_look(
    registry: Registry, changes: Changes
) -> None:
    (lost,) = await listeners(registry)
    with changes.watch("inv-1") as missed, changes.watch("inv-2") as later:
        async with registry.autocommit() as session:
            await session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": lost})
        await heard(missed)
        await heard(later)
        (again,) = await eventually(lambda: listeners(registry), lambda pids: len(pids) == 1)
        assert again != lost

        later.clear()
        await tell(registry, "inv-2")
        await heard(later)


async def test_it_starts_before_postgres_is_there(
    registry: Registry, registry_settings: RegistrySettings
) -> None:
    """The database refuses connections at first: nothing is raised, and then it listens."""
    database = registry_settings.postgres_db
    async with await psycopg.AsyncConnection.connect(
        host=registry_settings.postgres_host,
        port=registry_settings.postgres_port,
        user=registry_settings.postgres_user,
        password=registry_settings.postgres_password.get_secret_value(),
        dbname="postgres",
        autocommit=True,
    ) as maintenance:
        await maintenance.execute(f'ALTER DATABASE "{database}" RENAME TO "{database}_away"')
        changes = Changes(registry)
        async with changes:
            with changes.watch("inv-1") as event:
                # Longer than the first attempts take.
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await event.wait()
                await maintenance.execute(
                    f'ALTER DATABASE "{database}_away" RENAME TO "{database}"'
                )
                await heard(event)
            with changes.watch("inv-1") as event:
                await tell(registry, "inv-1")
                await heard(event)


async def test_it_goes_on_after_an_error_that_nobody_has_thought_of(
    registry_settings: RegistrySettings,
) -> None:
    """A host name that Python cannot encode is neither an error of Postgres nor of the system."""
    odd = Registry(registry_settings.model_copy(update={"postgres_host": f"{'x' * 64}.test"}))

    def failures() -> list[object]:
        return [entry["exc_info"] for entry in logs if entry["event"] == "changes_listener_failed"]

    with structlog.testing.capture_logs() as logs:
        async with Changes(odd):
            await eventually_true(lambda: len(failures()) >= 2)
    await odd.close()


async def test_closing_sends_all_watchers_home_and_leaves_no_connection(
    registry: Registry,
) -> None:
    async with Changes(registry) as changes:
        await eventually(lambda: listeners(registry), lambda pids: len(pids) == 1)
        assert not changes.closing
        with changes.watch("inv-1") as waiting:
            waiting.clear()
            await changes.close()
            assert changes.closing
            assert waiting.is_set()
            with changes.watch("inv-2") as too_late:
                assert too_late.is_set()
        await eventually(lambda: listeners(registry), lambda pids: not pids)


async def test_closing_while_postgres_is_away_takes_no_time(
    registry_settings: RegistrySettings,
) -> None:
    nowhere = Registry(registry_settings.model_copy(update={"postgres_port": 1}))
    async with Changes(nowhere) as changes:
        with changes.watch("inv-1") as event:
            await changes.close()
            await eventually_true(event.is_set)
    await nowhere.close()
