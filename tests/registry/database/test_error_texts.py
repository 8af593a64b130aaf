"""No user's data in the text of a database error: such texts reach logs and Temporal."""

import traceback
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from core.clock import utc_now
from registry.database.engine import Registry
from registry.database.tables import Project, Version

SECRET = "swordfish"


def _project(**values: Any) -> dict[str, Any]:
    return {"id": "prj-1", "name": SECRET, "created_at": utc_now(), **values}


async def _text_of_failure(registry: Registry, *statements: Any) -> tuple[DBAPIError, str]:
    async def execute() -> None:
        async with registry.transaction() as session:
            for statement in statements:
                await session.execute(statement)

    with pytest.raises(DBAPIError) as caught:
        await execute()
    error = caught.value
    return error, "".join(traceback.format_exception(error)) + str(error) + repr(error)


async def test_a_violated_constraint_does_not_quote_the_row(registry: Registry) -> None:
    error, said = await _text_of_failure(
        registry,
        insert(Project).values(_project()),
        insert(Project).values(_project(id="prj-2")),
    )
    assert isinstance(error, IntegrityError)
    assert "uq_projects_name" in said
    assert SECRET not in said
    # The parameters alone would not have been all: Postgres quotes them itself.
    assert isinstance(error.orig, psycopg.Error)
    assert SECRET in str(error.orig.diag.message_detail)

    _, said = await _text_of_failure(
        registry,
        insert(Version).values(
            id="ver-1", project_id=SECRET, default_pool="p", created_at=utc_now()
        ),
    )
    assert "foreign key" in said
    assert SECRET not in said


async def test_a_value_that_cannot_be_stored_is_not_quoted(registry: Registry) -> None:
    _, said = await _text_of_failure(registry, insert(Project).values(_project(name=f"{SECRET}\0")))
    assert "NUL" in said
    assert SECRET not in said


async def test_reads_hide_their_parameters_too(registry: Registry) -> None:
    async with registry.autocommit() as session:
        with pytest.raises(DBAPIError) as caught:
            await session.execute(text("SELECT * FROM nowhere WHERE a = :a"), {"a": SECRET})
    assert "nowhere" in str(caught.value)
    assert SECRET not in str(caught.value)
