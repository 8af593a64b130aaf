"""A direct child: a program that ends when this process ends, and that only we may signal.

The kernel sends the child a signal when its parent dies (PR_SET_PDEATHSIG), even by kill -9. Its
idea of the parent is the *thread* that started the child, not the process: a child started from a
pool's thread would be killed when the pool shrinks. So one thread starts all children, and lives
as long as the process.
"""

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Self

from standalone.errors import StandaloneError
from standalone.servers import child_main
from standalone.servers.unprivileged import User

_Job = tuple[Callable[[], subprocess.Popen[bytes]], "Future[subprocess.Popen[bytes]]"]


class _LastingThread:
    """The thread that starts all children of this process.

    A daemon: the others are ended at the beginning of the interpreter's shutdown, which would kill
    the servers before `atexit` functions can stop them in order.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def call(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            # A forked process inherits this object without its thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="starts-children", daemon=True
                )
                self._thread.start()
        done: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, done))
        return done.result()

    def _work(self) -> None:
        while True:
            job, done = self._jobs.get()
            try:
                done.set_result(job())
            except Exception as error:  # noqa: BLE001 - the caller gets it
                done.set_exception(error)


_LASTING_THREAD = _LastingThread()


class Child:
    """A running or ended child. Made by `Child.start`; the methods may be called from any thread.

    A thread waits for the end and reaps at once, so no zombie stays whether anybody asks or not.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._exit: Future[int] = Future()
        # A waiter that is cancelled must not cancel the exit itself.
        self._exit.set_running_or_notify_cancel()
        self._reaping = threading.Lock()
        threading.Thread(target=self._reap, name=f"waits-for-{process.pid}", daemon=True).start()

    @classmethod
    def start(
        cls,
        program: Sequence[str | Path],
        *,
        log: Path,
        death_signal: signal.Signals,
        user: User | None = None,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> Self:
        """Start a program in a session of its own, in the root folder, without input.

        A Ctrl-C on the terminal therefore does not reach it: we decide when and how it stops. A
        program that cannot be run says so in the log and exits with 1.

        Args:
            program: The absolute path of an executable and its arguments.
            log: The file that standard output and error are appended to; created with mode 0600.
            death_signal: What the kernel sends to the child when this process dies.
            user: The user it runs as; needs root. By default our own.
            environment: All variables of the child; by default only PATH and TMPDIR are passed on.
            keep_open: File descriptors that the child inherits.

        Raises:
            StandaloneError: this is not Linux, or the log cannot be opened.
        """
        if sys.platform != "linux":
            raise StandaloneError(
                "The embedded servers need Linux. Use a Postgres and a Temporal of your own"
            )
        if environment is None:
            environment = {
                name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ
            }
        command = [
            sys.executable,
            "-I",
            "-S",
            child_main.__file__,
            str(os.getpid()),
            str(int(death_signal)),
            "-" if user is None else f"{user.uid}:{','.join(map(str, user.gids))}",
            *map(str, program),
        ]
        try:
            # No link is followed: the folder may belong to a user who is trusted less than we are.
            output = os.open(
                log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StandaloneError(f"Cannot open the log {log}: {error.strerror}") from error
        try:
            process = _LASTING_THREAD.call(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(environment),
                    cwd="/",
                    start_new_session=True,
                    pass_fds=tuple(keep_open),
                )
            )
        finally:
            os.close(output)
        return cls(process)

    def _reap(self) -> None:
        # Learn of the end without reaping: until the lock is ours, the pid stays ours too, and
        # `send` cannot hit a stranger who got the same number.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            code = self._process.wait()
        self._exit.set_result(code)

    @property
    def pid(self) -> int:
        """The process id; after the end it may be anybody's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; a negative number is the signal that ended it."""
        return self._exit.result() if self._exit.done() else None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return not self._exit.done()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the child has ended."""
        with self._reaping:
            self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait up to `timeout` seconds (None: for ever); give the exit code, None if it runs on."""
        try:
            return self._exit.result(timeout)
        except TimeoutError:
            return None

    async def exited(self) -> int:
        """Wait for the end without blocking the event loop, and give the exit code."""
        return await asyncio.wrap_future(self._exit)

    def stop(self, *steps: tuple[signal.Signals, float]) -> int:
        """Send each step's signal and wait its seconds, then SIGKILL; give the exit code.

        Nothing happens if the child has ended.
        """
        for number, grace in steps:
            self.send(number)
            code = self.wait(grace)
            if code is not None:
                return code
        self.send(signal.SIGKILL)
        return self._exit.result()


def wait_until(condition: Callable[[], bool], *, timeout: float, pause: float = 0.01) -> bool:
    """Ask until the condition holds (True) or `timeout` seconds have passed (False)."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
