"""The commands and the code of docs/tutorial.md do what it shows.

Against the tests' own stack. `up`, and `run` without a server, have tests elsewhere.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.stack.processes import wait_for
from tests.support.stack.stack import API_KEY, Stack

TUTORIAL = ROOT / "docs" / "tutorial.md"
URL, KEY_FILE = "http://127.0.0.1:5000", "/var/tmp/control-plane-tour/api-key"  # noqa: S108 - compared
NOT_RUN = ("cd ", "control-plane up", "control-plane run", "echo ")


def blocks(kind: str) -> list[list[str]]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    return [text.splitlines() for of_kind, text in found if of_kind == kind]


def commands() -> list[tuple[str, list[str]]]:
    """Give the commands to run, in order, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in [line for block in blocks("") for line in block]:
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [each for each in found if not each[0].startswith(NOT_RUN)]


def comparable(command: str, lines: list[str]) -> list[str]:
    """Give what must be the same whenever and wherever a command runs."""
    if "--follow" in command:
        # How often something is seen while it runs is a matter of luck.
        lines = lines[-1:]
    elif "describe" in command:
        lines = [line for line in lines if line.startswith(("Phase", "Input"))]
    elif " login " in command:
        # Other tests may have projects there.
        lines = [re.sub(r"\(.*?\)", "()", line) for line in lines]
    elif " list " in command:
        lines = lines[:1]
    elif '"x"' in command:
        # Versions of Python underline in ways of their own.
        lines = lines[:2]
    return [_masked(line) for line in lines if line]


def _masked(line: str) -> str:
    """Leave out ids, folders, numbers, and how wide a column is."""
    line = re.sub(r"\b(inv|ver|exe)-[0-9a-f]{32}", r"\1-", line)
    line = re.sub(r"/\S*/", "/", line)
    return " ".join(re.sub(r"\d[\d,.:]*", "0", line).split())


class Reader:
    """Somebody who follows the tutorial, with other addresses."""

    def __init__(self, folder: Path, *, url: str) -> None:
        self.folder = folder / "primes"
        self.folder.mkdir()
        key_file = folder / "api-key"
        key_file.write_text(API_KEY)
        self.theirs = {URL: url, KEY_FILE: str(key_file)}
        self._environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def types(self, command: str, *, status: int = 0) -> list[str]:
        for documented, theirs in self.theirs.items():
            command = command.replace(documented, theirs)
        ended = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == status, f"{command}\n{ended.stdout}"
        return ended.stdout.splitlines()


@pytest.mark.timeout(300)
def test_the_tutorial(stack: Stack, tmp_path: Path) -> None:
    reader = Reader(tmp_path, url=stack.caller.url)
    main, ask = blocks("python")
    (reader.folder / "main.py").write_text("\n".join(main))
    typed = 0
    for command, documented in commands():
        if command == "python ask.py":
            (reader.folder / "ask.py").write_text("\n".join(ask))
        lines = reader.types(command, status=1 if '"x"' in command else 0)
        assert comparable(command, lines) == comparable(command, documented), command
        if command.endswith("--detach"):
            # Its id in the commands to come; and they show it while it runs.
            reader.theirs[documented[0]] = lines[0]
            logs = f"control-plane logs {lines[0]}"
            wait_for(lambda logs=logs: reader.types(logs), seconds=60)  # type: ignore[misc]
        elif command.startswith("control-plane cancel"):
            wait_for(
                lambda: "\n".join(reader.types("control-plane list primes count_primes")),
                lambda text: "CANCELLED" in text,
                seconds=60,
            )
        typed += 1
    assert typed == 13
