"""The provisioner server of examples/external_provisioner as a real process."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.stack.processes import wait_for

EXAMPLE = ROOT / "examples" / "external_provisioner"
KEY = "lemonandherb"


class ExampleServer:
    """May be killed and started again; its port and its state folder stay."""

    def __init__(self, folder: Path, *, stop_timeout: float = 2) -> None:
        self.folder = folder / "provisioner"
        self.folder.mkdir(parents=True)
        self.state = self.folder / "state"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._stop_timeout = stop_timeout
        self.start()

    def start(self) -> None:
        out, err = self.folder / "out", self.folder / "err"
        with out.open("wb") as stdout, err.open("ab") as stderr:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    EXAMPLE / "server.py",
                    f"--port={self.port}",
                    f"--state-folder={self.state}",
                    f"--stop-timeout={self._stop_timeout}",
                ],
                env={"PATH": os.environ["PATH"], "PROVISIONER_API_KEY": KEY},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                # A signal for the server must not reach the workers, nor a worker's the tests.
                start_new_session=True,
            )

        def listens() -> bool:
            assert self._process.poll() is None, err.read_text()
            return "listening at" in out.read_text()

        wait_for(listens)

    @property
    def server_pid(self) -> int | None:
        """None if the server does not run."""
        return None if self._process.poll() is not None else self._process.pid

    def wait(self) -> None:
        """Wait until the server has ended."""
        self._process.wait(20)

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def worker(self, execution_id: str) -> Path:
        """The folder of an execution's worker."""
        return self.state / execution_id

    def pid(self, execution_id: str) -> int:
        return int((self.worker(execution_id) / "pid").read_text())

    def runs(self, execution_id: str) -> bool:
        return _is_locked(self.worker(execution_id))

    def close(self) -> None:
        """End the server and what workers a test has left."""
        self.kill()
        for pid in self.state.glob("*/pid"):
            if _is_locked(pid.parent):
                os.killpg(int(pid.read_text()), signal.SIGKILL)


def _is_locked(folder: Path) -> bool:
    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
