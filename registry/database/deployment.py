"""Which control plane this is: the name that its workers carry where several share compute."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_IDENTITY = text(
    "SELECT to_hex(system_identifier) || '-' || oid"
    " FROM pg_control_system(), pg_database WHERE datname = current_database()"
)


async def get_deployment(session: AsyncSession) -> str:
    """Give a name of this registry that no other has: of the Postgres cluster and the database.

    It outlives restarts and dropped tables, so that workers left over from before are found.
    """
    name: str = (await session.execute(_IDENTITY)).scalar_one()
    return name
