"""Starts `confined_program`, which deals with files of users where they can do no harm.

Whoever asks keeps the facts about a project, so that its files are parsed once.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from provisioners.base import ProvisionerError
from provisioners.code import confined_program
from provisioners.code.confined_program import MAX_FILE_BYTES
from provisioners.code.facts import MAX_WARM, ProjectFacts, facts_from
from provisioners.code.sdk import DISTRIBUTION

PARSE_SECONDS = 5
"""Processor time that the files of one project may take."""
_MIB = 2**20
_MEMORY_MIB = 256
_OUTPUT_BYTES = 16 * _MIB
_WAIT_SECONDS = 60
"""Time for reading: of a busy machine, or of a folder that does not answer."""
_COMPILE_SECONDS = 120
_COMPILE_PROCESSES = 8
_COMPILE_MEMORY_MIB = 1024
_AT_ONCE = 2
"""So many projects of an attacker can be read at the same time; the others wait."""


class FactsReader:
    """Reads the files of projects, a few at the same time, in threads of its own."""

    def __init__(self) -> None:
        # Apart from the usual threads, which must not all wait for somebody's folder.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="project-files")

    async def read(
        self, folder: Path, *, dependencies: bool, list_bytes: int = MAX_FILE_BYTES
    ) -> ProjectFacts:
        """Do what `read_facts` does."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: read_facts(folder, dependencies=dependencies, list_bytes=list_bytes),
        )

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def read_facts(
    folder: Path, *, dependencies: bool, list_bytes: int = MAX_FILE_BYTES
) -> ProjectFacts:
    """Read what the files of a project say. It takes some 30 ms.

    Args:
        folder: of the project.
        dependencies: whether to read what it depends on.
        list_bytes: the most that requirements.txt may have.

    Raises:
        OSError: the folder cannot be opened.
        ProvisionerError: it may work later.
    """
    options = {
        "task": "read",
        "dependencies": dependencies,
        "list_bytes": list_bytes,
        "sdk": DISTRIBUTION,
        "max_warm": MAX_WARM,
        "limits": _limits(memory_mib=_MEMORY_MIB, cpu=PARSE_SECONDS, seconds=_WAIT_SECONDS),
    }
    answer = os.memfd_create("facts", os.MFD_CLOEXEC)
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = _run(options, opened, answer)
        finally:
            os.close(opened)
        return _understood(os.pread(answer, _OUTPUT_BYTES, 0), status)
    finally:
        os.close(answer)


async def compile_python(folder: Path, *, python: Path) -> None:
    """Compile once what each worker would compile by itself, as it cannot write there.

    No code in there runs, not even that of `.pth` files. What cannot be compiled is the user's
    business, who is shown the error when the function is called.
    """
    options = {
        "task": "compile",
        "folder": str(folder),
        "processes": min(len(os.sched_getaffinity(0)), _COMPILE_PROCESSES),
        "limits": _limits(
            memory_mib=_COMPILE_MEMORY_MIB, cpu=_COMPILE_SECONDS, seconds=_COMPILE_SECONDS
        ),
    }
    process = await asyncio.create_subprocess_exec(
        *_command(python, options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={},
        # Workers, which may be another user, read what it writes.
        umask=0o022,
    )
    try:
        # It ends by itself, at its limits.
        await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _limits(*, memory_mib: int, cpu: int, seconds: int) -> dict[str, int]:
    return {
        "memory": memory_mib * _MIB,
        "cpu": cpu,
        "seconds": seconds,
        "output": 64 * _MIB if memory_mib > _MEMORY_MIB else _OUTPUT_BYTES,
        "files": 16,
        "parent": os.getpid(),
    }


def _command(python: Path, options: object) -> Sequence[str]:
    program = confined_program.__file__
    return [str(python), "-I", "-S", program, json.dumps(options)]


def _run(options: Mapping[str, object], folder: int, answer: int) -> int:
    """Run the program to its end; gives its exit status, or a signal's number below zero."""
    try:
        process = subprocess.Popen(
            _command(Path(sys.executable), {**options, "descriptor": folder}),
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            pass_fds=[folder],
            start_new_session=True,
            env={},
        )
    except OSError as error:
        raise ProvisionerError(f"The project cannot be read: {error.strerror}") from error
    try:
        ended = os.pidfd_open(process.pid)
        try:
            # More than what it sets for itself, in case that it does not get as far.
            end = select.poll()
            end.register(ended, select.POLLIN)
            end.poll((_WAIT_SECONDS + 10) * 1000)
        finally:
            os.close(ended)
    finally:
        # Not reaped yet, so the number is still its own.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode


def _understood(output: bytes, status: int) -> ProjectFacts:
    *before, last = output.decode(errors="replace").strip().splitlines() or [""]
    if status == 0:
        if '"needs_memory"' in last[:20]:
            return _unparsable(before, f"it takes more than {_MEMORY_MIB} MiB of memory")
        facts = facts_from(last)
        if facts is not None:
            return facts
    if status == -signal.SIGXCPU:
        return _unparsable([*before, last], f"it takes more than {PARSE_SECONDS} s")
    if status in (-signal.SIGALRM, -signal.SIGKILL):
        name = _being_read([*before, last])
        raise ProvisionerError(f"{name} was not read within {_WAIT_SECONDS} s")
    return _unparsable([*before, last], f"the parser has failed ({status})")


def _unparsable(lines: Sequence[str], why: str) -> ProjectFacts:
    return ProjectFacts(problem=f"{_being_read(lines)} cannot be parsed: {why}")


def _being_read(lines: Sequence[str]) -> str:
    names = [line.removeprefix("reading ") for line in lines if line.startswith("reading ")]
    return names[-1] if names else "The project"
