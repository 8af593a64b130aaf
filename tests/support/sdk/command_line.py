"""The commands as tests call them: in this process, as processes, and on a terminal."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from click.testing import CliRunner
from control_plane.cli import control_plane

from tests.support.stack.processes import COMMAND, wait_for


@dataclass(frozen=True)
class Ended:
    """What a command has left."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class CommandLine:
    """Runs commands in this process, with what the test has set in its environment."""

    def ends(self, *arguments: str, stdin: str = "") -> Ended:
        """Run one, however it ends."""
        result = CliRunner().invoke(control_plane, arguments, input=stdin)
        return Ended(result.exit_code, result.stdout, result.stderr)

    def __call__(self, *arguments: str, stdin: str = "", status: int = 0) -> Ended:
        ended = self.ends(*arguments, stdin=stdin)
        assert ended.status == status, f"{arguments} ended with {ended}"
        assert "\x1b" not in ended.stdout + ended.stderr
        return ended

    def refused(self, *arguments: str, status: int, stdin: str = "") -> str:
        """Run one that cannot do what it is asked for; returns the one line that says why."""
        ended = self(*arguments, stdin=stdin, status=status)
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
        (line,) = (line for line in ended.stderr.splitlines() if line.startswith("Error: "))
        return line.removeprefix("Error: ")


def environment(**more: str) -> dict[str, str]:
    """The variables of this process that a command needs, and more."""
    names = ("PATH", "XDG_CONFIG_HOME", "CONTROL_PLANE_API_URL", "CONTROL_PLANE_API_KEY")
    return {name: os.environ[name] for name in names if name in os.environ} | more


@dataclass
class Process:
    """A command that runs by itself, its output in pipes."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=environment)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [COMMAND, *self.arguments],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reads(self) -> str:
        """Wait for a line of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def reads_error(self) -> str:
        """Wait for a line of its standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def interrupt(self) -> Ended:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> Ended:
        stdout, stderr = self.process.communicate(timeout=60)
        return Ended(self.process.returncode, stdout, stderr)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [COMMAND, *arguments],
            env=environment(TERM="xterm-256color", COLUMNS="120", LINES="40", **variables),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)

    def until(self, text: str) -> None:
        """Wait until a text has been shown."""
        wait_for(lambda: text in self._read(), seconds=60)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Wait for its end; returns the exit status."""
        # Read meanwhile: a terminal that nobody reads is full soon.
        status = wait_for(self._status, lambda seen: seen is not None, seconds=60)
        os.close(self._master)
        assert status is not None
        return status

    def _status(self) -> int | None:
        status = self.process.poll()
        self._read()
        return status

    def _read(self) -> str:
        try:
            while part := os.read(self._master, 65536):
                self.shown += part.decode(errors="replace")
        except OSError:
            # Nothing at the moment, or nobody on the other side any more.
            pass
        return self.shown
