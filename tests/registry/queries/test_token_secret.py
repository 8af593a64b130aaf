"""The secret of worker tokens: random, one for all processes, and how the derived one goes."""

import asyncio

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, select, text, update

from core.ids import ExecutionId
from core.settings import ApiKeySettings, RegistrySettings
from core.tokens import ExecutionTokens, secret_derived_from
from registry.database.engine import Registry
from registry.database.migrate import upgrade
from registry.database.tables import TokenSecret
from registry.queries import token_secret
from registry.queries.token_secret import WorkerTokens
from tests.support.servers import Addresses, connect, fresh_database

KEY = "butterflyburger"
KEYS = ApiKeySettings(control_plane_api_key=SecretStr(KEY))
EXECUTION = ExecutionId(f"exe-{'1' * 32}")
OF_BEFORE = ExecutionTokens(secret_derived_from(KEY))
"""What servers gave out that knew no other secret."""


async def secrets_in(registry: Registry) -> list[str]:
    async with registry.autocommit() as session:
        return list(await session.scalars(select(TokenSecret.secret)))


async def shift(registry: Registry, hours: int) -> None:
    """Set the end of the time in which tokens are derived from the key, as seen from now."""
    async with registry.transaction() as session:
        until = text(f"now() + interval '{hours} hours'")
        await session.execute(update(TokenSecret).values(derived_until=until))


async def test_a_token_tells_nothing_about_the_key(registry: Registry) -> None:
    """Who has a worker's token tries keys until one gives the same token."""
    stolen = await WorkerTokens(registry, KEYS).derive(EXECUTION)
    guesses = ["password", "changeme", KEY]
    secrets = [secret for guess in guesses for secret in (guess, secret_derived_from(guess))]
    assert [each for each in secrets if ExecutionTokens(each).verify(stolen)] == []
    # Nor is a key enough to make tokens.
    assert await WorkerTokens(registry, KEYS).verify(OF_BEFORE.derive(EXECUTION)) is None


async def test_all_processes_have_one_secret_whatever_their_key(registry: Registry) -> None:
    others = ApiKeySettings(control_plane_api_key=SecretStr("another"))
    token = await WorkerTokens(registry, KEYS).derive(EXECUTION)
    assert await WorkerTokens(registry, others).verify(token) == EXECUTION
    assert await WorkerTokens(registry, others).derive(EXECUTION) == token


async def test_processes_that_start_at_once_make_one_secret(registry: Registry) -> None:
    before = await secrets_in(registry)
    async with registry.transaction() as session:
        await session.execute(delete(TokenSecret))
    tokens = await asyncio.gather(
        *(WorkerTokens(registry, KEYS).derive(EXECUTION) for _ in range(10))
    )
    assert len(set(tokens)) == 1
    (made,) = await secrets_in(registry)
    assert [made] != before


async def test_two_databases_have_two_secrets(registry: Registry, servers: Addresses) -> None:
    with fresh_database(servers, template="template0") as settings:
        await asyncio.to_thread(upgrade, settings)
        other = Registry(settings)
        try:
            assert await secrets_in(other) != await secrets_in(registry)
        finally:
            await other.close()


async def test_a_secret_from_the_environment_needs_no_registry(
    registry_settings: RegistrySettings,
) -> None:
    keys = KEYS.model_copy(update={"control_plane_token_secret": SecretStr("mine")})
    nowhere = Registry(registry_settings.model_copy(update={"postgres_port": 1}))
    token = await WorkerTokens(nowhere, keys).derive(EXECUTION)
    assert token == ExecutionTokens("mine").derive(EXECUTION)
    # Nor does what is no token, with whatever secret.
    for text_ in ("", "x", EXECUTION, f"{EXECUTION}.", f"{EXECUTION}.{'G' * 64}"):
        assert await WorkerTokens(nowhere, KEYS).verify(text_) is None
    await nowhere.close()


async def test_old_and_new_programs_understand_one_another_while_they_are_replaced(
    registry: Registry,
) -> None:
    """A database that older servers have used: for a day their tokens, then for two days both."""
    await shift(registry, 24)
    tokens = WorkerTokens(registry, KEYS)
    old = OF_BEFORE.derive(EXECUTION)
    assert await tokens.derive(EXECUTION) == old
    assert await tokens.verify(old) == EXECUTION

    await shift(registry, -1)
    later = WorkerTokens(registry, KEYS)
    new = await later.derive(EXECUTION)
    assert new != old
    for good in (old, new):
        assert await later.verify(good) == EXECUTION
    # A process that has not looked since then is told by what it does not know.
    assert await tokens.verify(new) == EXECUTION

    await shift(registry, -49)
    at_last = WorkerTokens(registry, KEYS)
    assert await at_last.verify(old) is None
    assert await at_last.verify(new) == EXECUTION


async def test_the_key_may_be_changed_while_tokens_are_derived_from_it(registry: Registry) -> None:
    await shift(registry, 24)
    rotated = ApiKeySettings(
        control_plane_api_key=SecretStr("the-new-key"),
        control_plane_api_key_previous=SecretStr(KEY),
    )
    assert await WorkerTokens(registry, rotated).verify(OF_BEFORE.derive(EXECUTION)) == EXECUTION


@pytest.mark.parametrize("has_a_project", [False, True])
def test_the_migration_tells_a_new_database_from_a_used_one(
    servers: Addresses, *, has_a_project: bool
) -> None:
    with fresh_database(servers, template="template0") as settings:
        upgrade(settings, revision="0008")
        with connect(settings, database=settings.postgres_db) as connection:
            if has_a_project:
                connection.execute(
                    "INSERT INTO projects (id, name, created_at)"
                    " VALUES ('prj-1', 'a', now()), ('prj-2', 'b', now())"
                )
            upgrade(settings)
            rows = connection.execute(
                "SELECT length(secret), derived_until > now() FROM token_secret"
            ).fetchall()
    assert rows == [(64, True if has_a_project else None)]


async def test_tables_that_are_made_again_are_noticed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--delete-tables` of one program, while another one goes on."""
    monkeypatch.setattr(token_secret, "_LOOK_AGAIN_SECONDS", 0.0)
    tokens = WorkerTokens(registry, KEYS)
    await tokens.derive(EXECUTION)
    async with registry.transaction() as session:
        await session.execute(delete(TokenSecret))
    token = await WorkerTokens(registry, KEYS).derive(EXECUTION)
    assert await tokens.verify(token) == EXECUTION
