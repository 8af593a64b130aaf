"""Deals with files of a user's project, in a process of its own with limits: a program.

The server never parses what a user has written: a text of some kilobytes can cost a parser seconds
and gigabytes. `confined` starts this program, with as little time, memory, files and output as its
options say. It has two tasks:

- `read`: read control-plane.toml, and the file that lists the dependencies, in the folder that is
  open as `descriptor`. Before it reads or parses a file it prints `reading NAME`, and at its end
  one line of JSON: the facts; or `problem`, one line for a person; or `needs_memory`.
- `compile`: compile the Python files of a folder.

Standard library only, and of that little. It also runs on the interpreter of the workers.
"""

import ctypes
import json
import os
import re
import resource
import signal
import stat
import sys

FOLDER = 0
"""The folder becomes its standard input, for which an interpreter takes none."""
MAX_FILE_BYTES = 256 * 2**10
MAX_LOCK_BYTES = 4 * 2**20
"""uv.lock is not parsed here: its size costs next to nothing."""
MAX_COMMAND_BYTES = 64 * 2**10
"""Half of what the kernel takes for one argument."""
_MAX_ENTRIES = 20_000
"""How many files are looked at for Python code; the most that a bundle can have."""
_PR_SET_PDEATHSIG = 1

PLAIN_REQUIREMENT = re.compile(
    # A name that ends as a file's does is taken for a file of the bundle.
    r"(?!\S+\.(whl|zip|tgz|tar(\.\w+)?)(\s|;|$))[A-Za-z0-9][^/@\\]*|--hash=\S+",
    re.IGNORECASE,
)
_LOCAL_SOURCE = re.compile(r'source = \{ (path|directory|editable|virtual) = "(?!\.")')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Problem(Exception):  # noqa: N818 - not an error of this program
    """What is wrong with the project; the text is one line for its owner."""


def confine(options: dict[str, int]) -> None:
    """Give up what the task does not need, and end with the process that has started this one."""
    for name, limit in (
        (resource.RLIMIT_AS, options["memory"]),
        (resource.RLIMIT_CPU, options["cpu"]),
        (resource.RLIMIT_FSIZE, options["output"]),
        (resource.RLIMIT_NOFILE, options["files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(name)
        if most == resource.RLIM_INFINITY or limit < most:
            # At the soft limit of processor time comes SIGXCPU, which tells what it was.
            resource.setrlimit(name, (limit, limit + (name == resource.RLIMIT_CPU)))
    # It ends, too, if nobody is left to end it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(options["seconds"])
    nothing = ctypes.c_ulong(0)
    number = ctypes.c_ulong(signal.SIGKILL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, nothing, nothing, nothing)
    if os.getppid() != options["parent"]:
        os._exit(1)


def read(options: dict[str, object]) -> dict[str, object]:
    """Give the facts about the project.

    Raises:
        Problem: a file of it cannot be read or understood.
    """
    facts = _settings(_content("control-plane.toml"), options)
    facts["is_python"] = facts["command"] is not None or _has_python()
    facts["dependencies"] = _dependencies(str(options["sdk"])) if options["dependencies"] else None
    return facts


def _content(name: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """Give what is in a file of the project; None if there is none."""
    print(f"reading {name}", flush=True)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Opening a device may do something to it.
        _check(name, os.stat(name, dir_fd=FOLDER, follow_symlinks=False), limit)
        descriptor = os.open(name, flags, dir_fd=FOLDER)
        try:
            _check(name, os.fstat(descriptor), limit)
            content = b""
            while part := os.read(descriptor, limit + 1 - len(content)):
                content += part
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Problem(f"{name} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise Problem(f"{name} cannot be read: more than {limit:,} bytes")
    return content


def _check(name: str, status: os.stat_result, limit: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise Problem(f"{name} cannot be read: it is a link")
    if not stat.S_ISREG(status.st_mode):
        raise Problem(f"{name} cannot be read: it is not a regular file")
    if status.st_size > limit:
        raise Problem(f"{name} cannot be read: more than {limit:,} bytes")


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise Problem(f"{name} cannot be read: it is not UTF-8") from None


def _parse(name: str, content: bytes) -> dict[str, object]:
    # The interpreter of the workers, which compiles, may be without it.
    import tomllib  # noqa: PLC0415 - see above

    text = _text(name, content)
    print(f"reading {name}", flush=True)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise Problem(f"{name} cannot be parsed: it is nested too deeply") from None
    except ValueError as error:
        raise Problem(f"{name} cannot be parsed: {str(error)[:500]}") from None


def _settings(content: bytes | None, options: dict[str, object]) -> dict[str, object]:
    """Give `command` and `warm`."""
    if content is None:
        return {"command": None, "warm": 0}
    file = "control-plane.toml"
    known = _parse(file, content)
    # `functions` is for `control-plane deploy`.
    unknown = sorted(set(known) - {"command", "functions", "warm"})
    if unknown:
        names = "'command', 'functions' and 'warm'"
        raise Problem(f"{file} has the unknown key {unknown[0][:100]!r}; known are {names}")
    warm = known.get("warm", 0)
    max_warm = options["max_warm"]
    if type(warm) is not int or not 0 <= warm <= max_warm:  # type: ignore[operator] # a number
        raise Problem(f"{file}: 'warm' must be a whole number from 0 to {max_warm}")
    if "command" not in known:
        return {"command": None, "warm": warm}
    if warm:
        raise Problem(f"{file}: 'warm' is for Python functions, not for a 'command'")
    command = known["command"]
    if (
        not isinstance(command, list)
        or not command
        or not all(isinstance(word, str) and "\0" not in word for word in command)
        or not command[0]
    ):
        raise Problem(f"{file}: 'command' must be a non-empty list of strings")
    if sum(len(word.encode()) + 1 for word in command) > MAX_COMMAND_BYTES:
        raise Problem(f"{file}: 'command' has more than {MAX_COMMAND_BYTES:,} bytes")
    return {"command": command, "warm": 0}


def _has_python() -> bool:
    """Say whether there is a Python file at any depth, outside of hidden folders."""
    os.fchdir(FOLDER)
    left = _MAX_ENTRIES
    folders = ["."]
    # The list grows while it is gone through: what is near comes first.
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    # Beyond the limit it is as good as certain; if not, the runner says so.
                    if entry.name.endswith(".py") or left < 0:
                        return True
                    if entry.is_dir() and not entry.name.startswith("."):
                        folders.append(entry.path)
        except OSError:
            # It cannot be read, its path is too long, or links lead in a circle.
            continue
    return False


def _dependencies(sdk: str) -> dict[str, object] | None:
    """Read requirements.txt, or uv.lock, or pyproject.toml; the first one that is there counts."""
    listed = _content("requirements.txt")
    if listed is not None:
        text = re.sub(r"\\\n", " ", _text("requirements.txt", listed))
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.split("\n")]
        return _list_of("requirements.txt", [line for line in lines if line], sdk)
    project = _content("pyproject.toml")
    if project is None:
        return None
    lock = _content("uv.lock", MAX_LOCK_BYTES)
    if lock is None:
        return _list_of("pyproject.toml", _project_dependencies(project), sdk)
    return {
        "source": "uv.lock",
        "requirements": None,
        "is_plain": _LOCAL_SOURCE.search(_text("uv.lock", lock)) is None,
        "content": _digest(_text("pyproject.toml", project), _text("uv.lock", lock)),
    }


def _project_dependencies(content: bytes) -> list[str]:
    project = _parse("pyproject.toml", content).get("project")
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
        raise Problem("pyproject.toml: project.dependencies must be a list of strings")
    if any("\n" in line or "\r" in line for line in listed):
        raise Problem("pyproject.toml: an entry of project.dependencies must be one line")
    return [line.strip() for line in listed]


def _list_of(source: str, lines: list[str], sdk: str) -> dict[str, object] | None:
    kept = [line for line in lines if not _is_sdk(line, sdk)]
    if not kept:
        return None
    # requirements.txt itself is left to the installer, with its line numbers, if it can be.
    is_as_it_stands = source == "requirements.txt" and kept == lines
    return {
        "source": source,
        "requirements": None if is_as_it_stands else "\n".join(kept) + "\n",
        "is_plain": all(PLAIN_REQUIREMENT.fullmatch(line) for line in kept),
        "content": _digest(*kept),
    }


def _is_sdk(requirement: str, sdk: str) -> bool:
    name = _NAME.match(requirement)
    return name is not None and re.sub(r"[-_.]+", "-", name.group()).lower() == sdk


def _digest(*parts: str) -> str:
    import hashlib  # noqa: PLC0415 - most projects name no dependencies

    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def main() -> None:
    """Do the task that the options name."""
    options = json.loads(sys.argv[1])
    confine(options["limits"])
    if options["task"] == "compile":
        import compileall  # noqa: PLC0415 - for this task only
        import py_compile  # noqa: PLC0415 - for this task only

        folder = options["folder"]
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=2, stripdir=folder, invalidation_mode=mode)
        return
    os.dup2(options["descriptor"], FOLDER)
    try:
        answer = read(options)
    except Problem as problem:
        answer = {"problem": str(problem)}
    except MemoryError:
        # What was taken is free again, here.
        answer = {"needs_memory": True}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
