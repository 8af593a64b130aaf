"""Noticing within two seconds that Postgres has fallen silent, and ending the wait for it.

A Postgres that is gone refuses connections, and a session that waits for it hears of that at once.
One whose machine or network hangs says nothing: TCP goes on to wait, and a timeout for each
statement would hit the slow ones too. So it is asked: if nothing has come from Postgres for a
while, and a new connection is not answered either, those in use are ended, here at our side. Their
users see what they see after any lost connection.

Time is counted in ticks of the event loop. One that comes late does not count: then it is we who
have no time, and the answer may be lying there unread.
"""

import asyncio
import contextvars
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
import structlog
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

logger = structlog.get_logger(__name__)

_TICK_SECONDS: Final = 0.1
_LATE_SECONDS: Final = 0.1
"""A tick that took so much longer does not count."""
_SUSPICIOUS_TICKS: Final = 5
"""So long may an answer take before anybody wonders."""
_PROBE_TICKS: Final = 10
"""So long may a new connection take. Both together stay below the two seconds that are promised."""

SILENT: Final = "Postgres does not answer"

Connection = psycopg.AsyncConnection[Any]


async def patiently(
    connecting: Awaitable[Connection], *, ticks: int = _SUSPICIOUS_TICKS + _PROBE_TICKS
) -> Connection:
    """Wait for a connection, and not longer than so many ticks.

    Raises:
        TimeoutError: it did not come, and no caller will get it.
    """
    task = asyncio.ensure_future(connecting)
    delivered = False
    try:
        while ticks > 0:
            ticks -= await _tick(task)
            if task.done():
                delivered = True
                return task.result()
    finally:
        if not delivered:
            # Not waited for: where nothing comes, the end of an attempt may take its time, too.
            task.cancel()
            task.add_done_callback(_close_unwanted)
    raise TimeoutError


def _close_unwanted(task: asyncio.Future[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().pgconn.finish()


async def _tick(*tasks: asyncio.Future[Any]) -> bool:
    """Wait for one tick, or less if a task ends; returns whether it counts."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    if tasks:
        await asyncio.wait(tasks, timeout=_TICK_SECONDS)
    else:
        await asyncio.sleep(_TICK_SECONDS)
    return clock() - begun < _TICK_SECONDS + _LATE_SECONDS


class Pulse:
    """Watches over the connections of one engine, while any of them is in use.

    Args:
        engine: the engine.
        connect: makes a connection that is not the engine's.
    """

    def __init__(self, engine: AsyncEngine, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._silent = False
        self._ticks = 0
        self._last_sign = 0
        # Since which tick; the first one is the oldest.
        self._users: dict[object, int] = {}
        self._in_use: dict[ConnectionPoolEntry, Connection] = {}
        self._watching: asyncio.Task[None] | None = None
        event.listen(engine.sync_engine, "checkout", self._on_checkout)
        event.listen(engine.sync_engine, "checkin", self._on_checkin)
        event.listen(engine.sync_engine, "after_cursor_execute", self._on_answer)

    @property
    def silent(self) -> bool:
        """Whether Postgres has fallen silent, and has not answered again yet."""
        return self._silent

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Use the engine during the block, without waiting for a silent Postgres.

        Raises:
            OperationalError: it is known to be silent.
        """
        if self._silent:
            raise OperationalError(SILENT, None, psycopg.OperationalError(SILENT))
        user = object()
        self._users[user] = self._ticks
        if self._watching is None or self._watching.done():
            # In a context of its own: what it logs belongs to no request.
            self._watching = asyncio.create_task(
                self._watch(), name="pulse", context=contextvars.Context()
            )
        try:
            yield
        finally:
            del self._users[user]

    def close(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()

    def _on_checkout(self, _: object, entry: ConnectionPoolEntry, *__: object) -> None:
        connection = entry.driver_connection
        if isinstance(connection, psycopg.AsyncConnection):
            self._in_use[entry] = connection

    def _on_checkin(self, _: object, entry: ConnectionPoolEntry) -> None:
        self._in_use.pop(entry, None)

    def _on_answer(self, *_: object) -> None:
        self._last_sign = self._ticks

    async def _watch(self) -> None:
        try:
            while self._users:
                self._ticks += await _tick()
                oldest = next(iter(self._users.values()), self._ticks)
                if self._ticks - max(oldest, self._last_sign) >= _SUSPICIOUS_TICKS:
                    await self._probe()
        except Exception:
            logger.exception("pulse_failed")
        finally:
            # Nothing looks any more whether it answers, until the next user comes.
            self._silent = False

    async def _probe(self) -> None:
        """Return as soon as Postgres answers; end what waits for it if it does not."""
        before = self._last_sign
        while not await self._answers():
            if self._last_sign != before:
                # It has answered another session.
                break
            if not self._silent:
                logger.warning("postgres_silent", connections=len(self._in_use))
            self._silent = True
            for connection in self._in_use.values():
                _end(connection)
        if self._silent:
            self._silent = False
            logger.info("postgres_answers_again")
        self._last_sign = self._ticks

    async def _answers(self) -> bool:
        try:
            connection = await patiently(self._connect(), ticks=_PROBE_TICKS)
        except TimeoutError:
            self._ticks += _PROBE_TICKS
            return False
        except Exception as error:  # noqa: BLE001 - what comes at once comes to the users, too
            logger.info("postgres_probe_failed", error=str(error).partition("\n")[0])
            return True
        await connection.close()
        return True


def _end(connection: Connection) -> None:
    """Make the next read from a connection find its end; it is its user who closes it."""
    # The other side may be quicker, or no file may be left to be opened. The watch has to go on.
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as ours,
    ):
        ours.shutdown(socket.SHUT_RDWR)
