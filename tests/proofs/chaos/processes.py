"""The processes that faults hit: each is kept running, as a service manager would."""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from standalone.errors import StandaloneError
from standalone.servers.base import EmbeddedServer
from tests.proofs.chaos.faults import Kind
from tests.support.stack.processes import Program, children_of

logger = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.2
_RESTART_SECONDS = 1.0
"""From a start that failed to the next."""


class Kept(ABC):
    """A program that is started again whenever it has ended, unless a fault keeps it down."""

    kinds: tuple[Kind, ...] = (Kind.KILL, Kind.TERM, Kind.STOP)
    """What can be done to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts = 0
        """How often it was started."""
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._keeper: asyncio.Task[None] | None = None

    @abstractmethod
    def _start(self) -> None:
        """Start it; blocks."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process id; None if it does not run."""

    @abstractmethod
    def _end(self) -> None:
        """End it for good; blocks."""

    @abstractmethod
    async def _wait(self) -> None:
        """Wait for the end that was just asked for."""

    async def __aenter__(self) -> "Kept":
        await self._start_now()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self.heal()
        await asyncio.to_thread(self._end)

    async def hit(self, kind: Kind) -> None:
        """Begin a fault."""
        pid = self.pid
        if kind is Kind.KILL_CHILD:
            if pid is not None:
                _signal(children_of(pid)[:1], signal.SIGKILL)
            return
        if kind is Kind.STOP:
            _signal(self._tree(), signal.SIGSTOP)
            return
        self._may_run.clear()
        _signal(self._tree() if kind is Kind.KILL else [pid], _SIGNALS[kind])
        await self._wait()

    def heal(self) -> None:
        """End a fault; the start of what is down follows."""
        _signal(self._tree(), signal.SIGCONT)
        self._may_run.set()

    def _tree(self) -> list[int]:
        """Give the program's process and, for a server, its children."""
        pid = self.pid
        return [] if pid is None else [pid]

    async def _keep(self) -> None:
        while True:
            await self._may_run.wait()
            if self.pid is None:
                try:
                    await self._start_now()
                except (StandaloneError, AssertionError) as error:
                    # Something else was broken at that moment: a manager tries again.
                    logger.warning("not_started", name=self.name, error=str(error)[:500])
                    await asyncio.sleep(_RESTART_SECONDS)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _start_now(self) -> None:
        self.starts += 1
        # A thread cannot be stopped on its way: let it come to its end.
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._start)))


class KeptProgram(Kept):
    """A `control-plane` command.

    Args:
        name: as faults call it.
        make: starts it, with its output in the given folder.
        folder: for its output.
    """

    def __init__(self, name: str, make: Callable[[Path], Program], *, folder: Path) -> None:
        super().__init__(name)
        self._make = make
        self._folder = folder
        self._program: Program | None = None

    def _start(self) -> None:
        self._program = self._make(self._folder / f"{self.name}-{self.starts}")

    @property
    def pid(self) -> int | None:
        if self._program is None or self._program.exit_code is not None:
            return None
        return self._program.pid

    async def _wait(self) -> None:
        if self._program is not None:
            await asyncio.to_thread(self._program.wait, seconds=90)

    def _end(self) -> None:
        if self._program is not None:
            self._program.kill()


class KeptServer(Kept):
    """Postgres or Temporal."""

    def __init__(self, name: str, server: EmbeddedServer, *, has_children: bool) -> None:
        super().__init__(name)
        self._server = server
        self._has_children = has_children
        # A server in order would be stopped by its clients' manager at a time of their choice.
        self.kinds = (Kind.KILL, Kind.STOP)
        if has_children:
            self.kinds = (*self.kinds, Kind.KILL_CHILD)

    def _start(self) -> None:
        self._server.start()

    @property
    def pid(self) -> int | None:
        return self._server.pid

    async def _wait(self) -> None:
        await self._server.exited()

    def _end(self) -> None:
        self._server.stop()

    def _tree(self) -> list[int]:
        pid = self._server.pid
        if pid is None:
            return []
        # The parent first: while it is stopped it makes no more children.
        return [pid, *(children_of(pid) if self._has_children else [])]


_SIGNALS = {Kind.KILL: signal.SIGKILL, Kind.TERM: signal.SIGTERM}


def _signal(pids: Iterable[int | None], number: signal.Signals) -> None:
    for pid in pids:
        if pid is not None:
            # It may have ended by itself at this very moment; nobody else reaps it.
            with suppress(ProcessLookupError):
                os.kill(pid, number)
