"""What the embedded servers have in common."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from standalone.errors import StandaloneError
from standalone.servers.child import Child

_LOG_LIMIT = 10_000_000


class EmbeddedServer(ABC):
    """A server that runs as our child between `start` and `stop`.

    Both block; `with` calls them, `async with` calls them in a thread. After `stop`, or after the
    server has ended by itself, `stop` and `start` may be called again.
    """

    name: str
    """What to call it in messages."""

    def __init__(self, *, log: Path) -> None:
        self.log = log
        """The file with the server's output; the one before is kept with `.1` at its name."""
        self._child: Child | None = None
        self._log_start = 0

    @abstractmethod
    def start(self) -> None:
        """Start the server and wait until it answers; leaves nothing running if that fails.

        Raises:
            StandaloneError: it cannot be started; the subclasses name the cases.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop the server in order, by force where that takes too long. Idempotent."""

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        return self._child.pid if self._child is not None and self._child.is_alive else None

    async def exited(self) -> int:
        """Wait until the server ends, however that comes about, and give its exit code.

        Raises:
            RuntimeError: it was not started.
        """
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return await self._child.exited()

    def log_tail(self, lines: int = 20) -> str:
        """Give the last lines that the server has written since its start."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                text = log.read().decode(errors="replace")
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(text.splitlines()[-lines:]) or "(it has written nothing)"

    def _begin_log(self) -> None:
        """Remember where this start begins in the log, and turn over one that has grown large."""
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_LIMIT:
                self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with suppress(FileNotFoundError):
            self._log_start = 0
            self._log_start = self.log.stat().st_size

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: let it come to its end, then undo it.
            with suppress(StandaloneError):
                await starting
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)
