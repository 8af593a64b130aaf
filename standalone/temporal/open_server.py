"""A Temporal that everybody on this machine can reach by its ports: for tests, and where asked."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Unpack

from core.temporal.client import EmbeddedTemporalSettings
from standalone.errors import PortIsTakenError
from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import FolderLock
from standalone.servers.ports import LOOPBACK, free_ports, listens, port_is_free
from standalone.temporal.dev_server import Ports, ServerOptions, TemporalDevServer

_TRIES: Final = 5
"""Starts with other ports, when a port that we had chosen was taken before the server got to it."""


class OpenTemporal(TemporalDevServer):
    """A Temporal development server that listens on the loopback interface of this machine.

    Every account of the machine, and every function that runs on it, may do with it what they like.
    It has three ports besides those that it is given.

    Args:
        data_folder: See `TemporalDevServer`.
        port: The port of the gRPC front end; None chooses a free one at each start.
        ui_port: The port of the web UI; None chooses a free one at each start.
        **options: See `TemporalDevServer`.
    """

    def __init__(
        self,
        data_folder: Path,
        *,
        port: int | None = None,
        ui_port: int | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(data_folder, **options)
        self._wanted_port = port
        self._wanted_ui_port = ui_port if self.has_ui else None
        self._ports: Ports | None = None

    @property
    def port(self) -> int:
        """The port of the gRPC front end. Known after `start`.

        Raises:
            RuntimeError: it was not started.
        """
        if self._ports is None:
            raise RuntimeError("Temporal was not started")
        return self._ports.front_end

    @property
    def address(self) -> str:
        """Where clients connect: host and port. Known after `start`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """The address of the web UI; None without one, or before `start`."""
        if self._ports is None or not self.has_ui:
            return None
        return f"http://{LOOPBACK}:{self._ports.ui}"

    @property
    def settings(self) -> EmbeddedTemporalSettings:
        """What a client needs to connect. Known after `start`."""
        return EmbeddedTemporalSettings(
            temporal_address=self.address,
            temporal_namespace=self.namespace,
            temporal_ui_url=self.ui_url,
        )

    def environment(self) -> dict[str, str]:
        """Give the TEMPORAL_* settings that lead to this server."""
        environment = {
            "TEMPORAL_ADDRESS": self.address,
            "TEMPORAL_NAMESPACE": self.namespace,
        }
        if self.ui_url is not None:
            environment["TEMPORAL_UI_URL"] = self.ui_url
        return environment

    def _launch(self, binary: Path, lock: FolderLock) -> None:
        for _ in range(_TRIES):
            self._begin_log()
            if self._came_up(binary, lock):
                return
        raise self._failed(f"did not get its ports in {_TRIES} tries")

    def _came_up(self, binary: Path, lock: FolderLock) -> bool:
        """Start the program; False if a port that we had chosen was taken meanwhile."""
        for port, what in (
            (self._wanted_port, "Temporal"),
            (self._wanted_ui_port, "Temporal's web UI"),
        ):
            if port is not None and not port_is_free(port):
                raise PortIsTakenError(port, what)
        # The server would choose the last two itself, but may then take one that we have chosen.
        port, ui_port, metrics_port, http_port = free_ports(4)
        self._ports = ports = Ports(
            front_end=self._wanted_port or port,
            ui=self._wanted_ui_port or ui_port,
            metrics=metrics_port,
            http=http_port,
        )
        self._child = child = Child.start(
            self._command(binary, ports),
            log=self.log,
            # Nothing is lost by it, and an orderly stop would hold the ports for seconds.
            death_signal=signal.SIGKILL,
            keep_open=[lock.fileno()],
        )
        awaited = [ports.front_end, ports.metrics, ports.http, *[ports.ui] * self.has_ui]
        if not self._listens_on(child, awaited):
            return False
        self._wait_until_it_answers(child)
        return True

    def _listens_on(self, child: Child, ports: Sequence[int]) -> bool:
        """Wait until the server has its ports; False if one of those that we chose was taken."""

        def settled() -> bool:
            return not child.is_alive or all(listens(child.pid, port) for port in ports)

        if not wait_until(settled, timeout=self._start_timeout, pause=0.02):
            raise self._failed(f"did not answer within {self._start_timeout:g} s")
        if child.is_alive:
            return True
        for port, what in ((self._wanted_port, "Temporal"), (self._wanted_ui_port, "its UI")):
            if port is not None and not port_is_free(port):
                raise PortIsTakenError(port, what)
        if "address already in use" in self.log_tail():
            return False
        raise self._failed(f"exited with {child.exit_code}")
