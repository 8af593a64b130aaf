from collections.abc import AsyncIterator

import pytest

from registry.changes import Changes
from registry.database.engine import Registry
from tests.support.harness import heard


@pytest.fixture
async def changes(registry: Registry) -> AsyncIterator[Changes]:
    """Changes of the test's database. They listen already, and have told their watchers so."""
    async with Changes(registry) as changes:
        with changes.watch("the connection") as connected:
            await heard(connected)
        yield changes
