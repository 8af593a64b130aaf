"""One warm parent, as the Temporal worker holds it: its keeper, and the way to that.

The processes are `programs.keeper` and `programs.parent_program`; how many there are, and for how
long, is decided in `parents`.
"""

import asyncio
import fcntl
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from provisioners.base import ProvisionerError
from provisioners.process.cgroups import processes_in, remove
from provisioners.process.folder import WorkerFolder
from provisioners.process.identity import (
    ProcessIdentity,
    kill_matching,
    open_pidfd,
    send,
    with_environment,
    without_zombies,
)
from provisioners.process.programs import messages as parent_messages
from provisioners.process.scratch import Scratch

ANSWER_SECONDS = 5.0
"""For so long an answer of a parent or of its child is waited for, before a worker starts cold."""
_CLEANUP_SECONDS = 2.0


class NoWarmStartError(Exception):
    """A worker was not started warm, or has been killed again.

    Attributes:
        lasting: whether a new parent would not do better.
    """

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting


class WarmParent:
    """One parent process."""

    def __init__(
        self,
        folder: WorkerFolder,
        scratch: Scratch,
        cgroups: list[Path],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.folder = folder
        self.scratch = scratch
        self.cgroups = cgroups
        self.loop = loop
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        output, self.their_output = os.pipe()
        os.set_blocking(output, False)
        # None of these may have a number that another gets in the process.
        self.their_control = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 10)
        self.output = fcntl.fcntl(output, fcntl.F_DUPFD_CLOEXEC, 10)
        theirs.close()
        os.close(output)
        self.sending = threading.Lock()
        """Held while `control` is used or closed: its number must not change its meaning."""
        self.keeper: ProcessIdentity | None = None
        self.began = self.used = time.monotonic()
        self.ready = False
        self.given_up = False
        self.starts = 0
        self.over = asyncio.Event()
        """Set when it is to end, or has."""
        self.reason = "it was not used any more"
        self.lasting = False
        """Whether another one would end for the same reason."""

    def give_up(self, error: Exception) -> None:
        """Let it end, since it does not do what it is for. In any thread."""
        self.given_up = True
        self.ready = False
        self.reason = str(error)
        self.lasting = isinstance(error, NoWarmStartError) and error.lasting
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(self.over.set)

    def start_worker(self, message: dict[str, Any], *, lock: int) -> int:
        """Fork a worker; give its shim's pid. It has the lock, too, from here on.

        Raises:
            NoWarmStartError: no worker is there; whether one was, says its folder.
            ProvisionerError: there is half a worker, in which nothing runs, but which has the lock.
        """
        own, theirs = socket.socketpair()
        with own:
            own.settimeout(ANSWER_SECONDS)
            try:
                with theirs, self.sending:
                    socket.send_fds(self.control, [b"w"], [theirs.fileno()])
                # So far it has neither the lock nor anything else: it may come to life later.
                shim = ProcessIdentity(**_answer(own))
                pidfd = open_pidfd(shim)
                if pidfd is None:
                    raise ConnectionResetError("it has ended")
            except OSError as error:
                text = f"the parent does not answer: {error}"
                raise NoWarmStartError(text, lasting=isinstance(error, TimeoutError)) from error
            try:
                data = json.dumps(message).encode() + b"\n"
                sent = socket.send_fds(own, [data], [lock])
                # Not nothing, which is an error when it has read all and has gone on.
                if data[sent:]:
                    own.sendall(data[sent:])
                _answer(own)
            except (OSError, NoWarmStartError) as error:
                # Its copy of the lock must be gone before another is started with ours. When
                # it was only late, it may have started the program, and has written worker.json.
                send(pidfd, signal.SIGKILL)
                if not _has_ended(pidfd, within=_CLEANUP_SECONDS):
                    raise ProvisionerError("A forked worker can neither start nor end") from error
                if isinstance(error, NoWarmStartError):
                    raise
                text = f"the forked worker does not answer: {error}"
                raise NoWarmStartError(text, lasting=isinstance(error, TimeoutError)) from error
            finally:
                os.close(pidfd)
        self.starts += 1
        return shim.pid

    def close_their_ends(self) -> None:
        """Close what only the process needs."""
        if self.their_output >= 0:
            os.close(self.their_control)
            os.close(self.their_output)
            self.their_output = -1

    def last_output_line(self) -> str:
        """Give the last line that it has printed, if it was not read already."""
        with suppress(BlockingIOError):
            lines = os.read(self.output, 65536).decode(errors="replace").strip().splitlines()
            return lines[-1][:500] if lines else ""
        return ""

    def end(self) -> None:
        """Have the keeper kill it and what its import has left running; workers run on."""
        with self.sending:
            self.control.settimeout(_CLEANUP_SECONDS)
            with suppress(OSError):
                self.control.shutdown(socket.SHUT_WR)
                while self.control.recv(parent_messages.MAX_ANSWER):
                    pass
            self.control.close()
        os.close(self.output)
        self.close_their_ends()
        clear_away(self.scratch, self.cgroups)


def clear_away(scratch: Scratch, cgroups: list[Path]) -> None:
    """Kill what a parent has left: its workers have left its cgroups, with other environments."""

    def find() -> list[int]:
        return [*without_zombies(processes_in(cgroups)), *with_environment(*scratch.marks())]

    kill_matching(find, within=_CLEANUP_SECONDS)
    remove(cgroups)


@contextmanager
def watch_for_end(parent: WarmParent) -> Iterator[None]:
    """Set `over` when the process ends: the keeper closes its end of the way to it."""

    def ended() -> None:
        with suppress(BlockingIOError):
            try:
                if parent.control.recv(parent_messages.MAX_ANSWER):
                    return  # it has no more to say
            except ConnectionError:
                pass
            parent.loop.remove_reader(parent.control)
            if not parent.over.is_set() and not parent.given_up:
                parent.reason = "its process has ended"
                parent.over.set()

    parent.loop.add_reader(parent.control, ended)
    try:
        yield
    finally:
        parent.loop.remove_reader(parent.control)


async def until_ready(parent: WarmParent, *, seconds: float) -> None:
    """Wait for the end of the import, or for `over`."""
    said = asyncio.Event()
    parent.loop.add_reader(parent.control, said.set)
    waiting = [asyncio.create_task(event.wait()) for event in (said, parent.over)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        parent.loop.remove_reader(parent.control)
        for task in waiting:
            task.cancel()
    if not done:
        parent.give_up(NoWarmStartError(f"the import takes more than {seconds:g} s", lasting=True))
        return
    try:
        _answer(parent.control)
    except NoWarmStartError as error:
        parent.give_up(error)
    except OSError:
        # It has ended without an answer, or it is to end.
        if not parent.over.is_set():
            words = parent.last_output_line()
            text = f"its process has ended{f': {words}' if words else ''}"
            parent.give_up(NoWarmStartError(text, lasting=True))
    else:
        parent.used = time.monotonic()
        parent.ready = not parent.over.is_set()


def _answer(connection: socket.socket) -> dict[str, Any]:
    """Read one line of JSON.

    Raises:
        NoWarmStartError: it is a refusal.
        OSError: the other side has ended, or does not answer in time.
    """
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(parent_messages.MAX_ANSWER)
        data += piece
        if not piece or len(data) > parent_messages.MAX_ANSWER:
            raise ConnectionResetError("it has ended")
    try:
        return parent_messages.checked(data)
    except parent_messages.RefusedError as error:
        raise NoWarmStartError(str(error), lasting=error.lasting) from None


def _has_ended(pidfd: int, *, within: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within * 1000))
