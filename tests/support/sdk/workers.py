"""Workers as subprocesses: the runner, or any other program that plays one."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.repository import ROOT
from tests.support.sdk.peer import TOKEN, Peer

SDK = ROOT / "sdk"


class Worker:
    """A started worker; its output is read from a file, so that it never blocks on us."""

    def __init__(self, command: list[str], *, environment: dict[str, str], folder: Path) -> None:
        self.output_path = folder.parent / "output.txt"
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self.output_path.read_text(encoding="utf-8")

    def end(self, *, timeout: float = 15.0) -> int:
        """Wait for the end and give the exit status."""
        return self.process.wait(timeout)

    def wait_for_output(self, text: str) -> None:
        """Wait until the worker, which must still run, has written something."""
        deadline = time.monotonic() + 15
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.005)

    def sigterm(self) -> None:
        self.process.send_signal(signal.SIGTERM)


def environment_of(peer: Peer, function: str, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "CONTROL_PLANE_PROJECT_NAME": "p 1",
        "CONTROL_PLANE_VERSION_ID": "ver-1",
        "CONTROL_PLANE_FUNCTION_NAME": function,
        "CONTROL_PLANE_INVOCATION_ID": "inv-1",
        "CONTROL_PLANE_EXECUTION_ID": "exe-1",
        "CONTROL_PLANE_API_URL": peer.url,
        "CONTROL_PLANE_API_KEY": TOKEN,
        **more,
    }


StartWorker = Callable[..., Worker]
