"""Who waits for a change of an invocation or an execution, and who tells them: LISTEN and NOTIFY.

What changes is announced within the transaction that changes it, and heard once that is committed.
An announcement holds an id and nothing else: the listener reads the row.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import psycopg
import structlog
from sqlalchemy import ColumnElement, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from registry.database.engine import Registry

logger = structlog.get_logger(__name__)

CHANNEL: Final = "control_plane_changes"
"""The one channel of a database. NOTIFY reaches only listeners in the same database."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_CONNECTION: Final[dict[str, Any]] = {
    "application_name": "control-plane-changes",
    "connect_timeout": 2,
    # Nothing is ever sent on this connection, so only the kernel can find out that a machine or a
    # network between us is gone: after 25 seconds.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


def announcement(subject: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[None]:
    """Give the expression that announces `subject`, for the RETURNING of the UPDATE of its row."""
    return func.pg_notify(CHANNEL, subject)


_SUBJECTS = func.unnest(bindparam("subjects", type_=ARRAY(Text))).column_valued("subject")
_ANNOUNCE = select(func.pg_notify(CHANNEL, _SUBJECTS))


async def announce(session: AsyncSession, *subjects: str) -> None:
    """Tell the watchers in all processes, when the transaction commits, that subjects have changed.

    Args:
        session: the transaction that changes them.
        *subjects: ids of invocations or executions; any number goes out in one statement.
    """
    if subjects:
        await session.execute(_ANNOUNCE, {"subjects": list(subjects)})


class Changes:
    """Listens for announcements, as long as the `async with` block lasts. Make one per process.

    It has a connection of its own, beside the registry's pool. Without that connection (at the
    start, or while Postgres is away) nothing is heard; once it is there again, every watcher is
    told to look, so nothing is missed.
    """

    def __init__(self, registry: Registry) -> None:
        engine = registry.engine.sync_engine
        _, parameters = engine.dialect.create_connect_args(engine.url)
        self._parameters: dict[str, Any] = {**parameters, **_CONNECTION}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether nothing will be announced any more, so that no request should wait."""
        return self._closing

    @property
    def watcher_count(self) -> int:
        """How many watchers there are at the moment."""
        return sum(len(events) for events in self._watchers.values())

    @contextmanager
    def watch(self, subject: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when a change of `subject` is announced.

        Watch first, then read, then wait: what changes after the reading is announced after the
        watching began. The event may also be set without any change, so the watcher reads again;
        to wait once more, clear it before reading.
        """
        event = asyncio.Event()
        if self._closing:
            event.set()
        self._watchers.setdefault(subject, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[subject]
            watchers.discard(event)
            if not watchers:
                del self._watchers[subject]

    async def start(self) -> None:
        """Begin to listen, in the background: Postgres need not be there yet."""
        self._listening = asyncio.create_task(self._listen(), name="changes")

    async def close(self) -> None:
        """Stop listening and send every watcher home. Closing twice is fine."""
        self._closing = True
        self._wake_all()
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
            self._listening = None

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    def _wake_all(self) -> None:
        for events in self._watchers.values():
            for event in events:
                event.set()

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    autocommit=True, **self._parameters
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    logger.info("changes_listening")
                    pause = _FIRST_PAUSE_SECONDS
                    # What has been committed before LISTEN was announced to no listener.
                    self._wake_all()
                    async for notification in connection.notifies():
                        for event in self._watchers.get(notification.payload, ()):
                            event.set()
            except (psycopg.Error, OSError) as error:
                logger.warning(
                    "changes_connection_lost",
                    error=str(error).partition("\n")[0],
                    again_in_seconds=pause,
                )
            except Exception:
                # Nothing waits for this task's end, so it must not have one: requests that wait
                # would hear of nothing any more, and look only when their time is over.
                logger.exception("changes_listener_failed", again_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
