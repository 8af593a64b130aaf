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
_FILES_FOR_A_PROCESS = 200
_PR_SET_PDEATHSIG = 1

PLAIN_REQUIREMENT = re.compile(
    # A name that ends as a file's does is taken for a file of the bundle.
    r"(?!\S+\.(whl|zip|tgz|tar(\.\w+)?)(\s|;|$))[A-Za-z0-9][^/@\\]*|--hash=\S+",
    re.IGNORECASE,
)
_LOCAL_SOURCE = re.compile(r'source = \{ (path|directory|editable|virtual) = "(?!\.")')
_INCLUDE = re.compile(r"(-r|--requirement|-c|--constraint)[ =]*(\S+)")
_OPTION = re.compile(
    r"(-i|--index-url|--extra-index-url|-f|--find-links|--no-index|--pre|--prefer-binary"
    r"|--require-hashes|--only-binary|--trusted-host)([ =].*)?"
)
_FIND_LINKS = re.compile(r"(?:-f|--find-links)[ =]+(\S+)")
_ADDRESS = re.compile(r"\w+:/")
_BUILDS = re.compile(r"(-e|--editable|--no-binary)[ =]*\S.*")
"""uv builds for these, although it was told not to build."""
_REPOSITORY = re.compile(r"(^|[\s@])(git|hg|svn|bzr)\+", re.IGNORECASE)
"""There are no wheels in there, and without consent not even git runs."""
_MAX_LISTS = 50
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
    facts["dependencies"] = _dependencies(options) if options["dependencies"] else None
    return facts


def _content(name: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """Give what is in a file of the project; None if there is none."""
    print(f"reading {name}", flush=True)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        folder, _, _ = name.rpartition("/")
        while folder:
            if stat.S_ISLNK(os.stat(folder, dir_fd=FOLDER, follow_symlinks=False).st_mode):
                raise Problem(f"{name} cannot be read: {folder} is a link")
            folder, _, _ = folder.rpartition("/")
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
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
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


def _dependencies(options: dict[str, object]) -> dict[str, object] | None:
    """Read requirements.txt, or uv.lock, or pyproject.toml; the first one that is there counts."""
    sdk = str(options["sdk"])
    listed = _content("requirements.txt", int(str(options["list_bytes"])))
    if listed is not None:
        wanted = _List("requirements.txt", sdk)
        wanted.add_file("requirements.txt", listed)
        return wanted.facts()
    project = _content("pyproject.toml")
    if project is None:
        return None
    lock = _content("uv.lock", MAX_LOCK_BYTES)
    if lock is None:
        wanted = _List("pyproject.toml", sdk)
        for line in _project_dependencies(project):
            wanted.add_requirement(line)
        return wanted.facts()
    return {
        "source": "uv.lock",
        "requirements": None,
        "constraints": None,
        "needs_build": None,
        "is_plain": _LOCAL_SOURCE.search(_text("uv.lock", lock)) is None,
        "content": _digest(_text("pyproject.toml", project), _text("uv.lock", lock)),
    }


def _project_dependencies(content: bytes) -> list[str]:
    project = _parse("pyproject.toml", content).get("project")
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
        raise Problem("pyproject.toml: project.dependencies must be a list of strings")
    return [line.strip() for line in listed]


class _List:
    """A list of dependencies in which each line means to every installer what it means here.

    Installers read nothing but this list: their own reading of the user's files might find in
    there what was not looked at (an option behind a comment), might follow the names of files out
    of the project, and puts in variables (`${NAME}`), among which are passwords of indexes.
    """

    def __init__(self, source: str, sdk: str) -> None:
        self._source = source
        self._sdk = sdk
        self._lines: list[str] = []
        self._constraints: list[str] = []
        self._needs_build: str | None = None
        self._files = {source}

    def facts(self) -> dict[str, object] | None:
        if not self._lines:
            return None
        every = [*self._lines, *self._constraints]
        return {
            "source": self._source,
            "requirements": "\n".join(self._lines) + "\n",
            "constraints": "\n".join(self._constraints) + "\n" if self._constraints else None,
            "needs_build": self._needs_build,
            "is_plain": all(PLAIN_REQUIREMENT.fullmatch(line) for line in every),
            "content": _digest(*self._lines, "-c", *self._constraints),
        }

    def add_file(self, name: str, content: bytes, *, constrains: bool = False) -> None:
        text = re.sub(r"\\\n", " ", _text(name, content))
        for commented in text.split("\n"):
            line = re.sub(r"(^|\s)#.*", "", commented).strip()
            if not line.startswith("-"):
                self.add_requirement(line, constrains=constrains)
                continue
            self._check(line)
            include = _INCLUDE.fullmatch(line)
            if include is not None:
                # pathlib is slow to import, here and below.
                path = os.path.join(os.path.dirname(name), include[2])  # noqa: PTH118, PTH120 - slow
                self._include(path, constrains=constrains or "c" in include[1][:3])
            elif _BUILDS.fullmatch(line):
                self._needs_build = self._needs_build or line
                self._lines.append(line)
            elif _OPTION.fullmatch(line):
                self._lines.append(_option(line, os.path.dirname(name)))  # noqa: PTH120 - slow
            else:
                raise Problem(f"{self._source}: {line[:200]!r} is not supported")

    def add_requirement(self, line: str, *, constrains: bool = False) -> None:
        self._check(line)
        if line.startswith("-"):
            raise Problem(f"{self._source}: {line[:200]!r} names no package")
        if _REPOSITORY.search(line):
            self._needs_build = self._needs_build or line
        if line and not _is_sdk(line, self._sdk):
            (self._constraints if constrains else self._lines).append(line)

    def _check(self, line: str) -> None:
        if not line.replace("\t", " ").isprintable() or line.endswith("\\"):
            raise Problem(f"{self._source}: {line[:200]!r} has characters that do not belong there")
        if "${" in line:
            raise Problem(f"{self._source}: {line[:200]!r}: there are no variables to be used")

    def _include(self, path: str, *, constrains: bool) -> None:
        path = os.path.normpath(path)
        if path.startswith(("/", "..")) or _ADDRESS.match(path):
            raise Problem(f"{self._source}: {path[:200]!r} is not a file of the project")
        if path in self._files:
            return
        self._files.add(path)
        if len(self._files) > _MAX_LISTS:
            raise Problem(f"{self._source} names more than {_MAX_LISTS} files")
        content = _content(path)
        if content is None:
            raise Problem(f"{self._source} names {path[:200]!r}, which is not there")
        self.add_file(path, content, constrains=constrains)


def _option(line: str, folder: str) -> str:
    """Give an option; the name of a folder is one from the list's own folder on."""
    links = _FIND_LINKS.fullmatch(line)
    if links is None or links[1].startswith("/") or _ADDRESS.match(links[1]):
        return line
    place = os.path.normpath(os.path.join(folder, links[1]))  # noqa: PTH118 - pathlib is slow
    return f"--find-links ./{place}"


def _is_sdk(requirement: str, sdk: str) -> bool:
    name = _NAME.match(requirement)
    return name is not None and re.sub(r"[-_.]+", "-", name.group()).lower() == sdk


def _digest(*parts: str) -> str:
    import hashlib  # noqa: PLC0415 - most projects name no dependencies

    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def compile_all(folder: str, *, limits: dict[str, int], processes: int) -> None:
    """Compile the Python files of a folder, in several processes if there are many."""
    files = [
        os.path.join(path, name)  # noqa: PTH118 - pathlib is slow to import
        for path, _, names in os.walk(folder)
        for name in names
        if name.endswith(".py")
    ]
    processes = min(processes, 1 + len(files) // _FILES_FOR_A_PROCESS)
    here = os.getpid()
    for number in range(1, processes):
        if os.fork() == 0:
            try:
                confine({**limits, "parent": here})
                _compile(files[number::processes], folder)
            finally:
                os._exit(0)
    _compile(files[::processes], folder)
    for _ in range(1, processes):
        os.wait()


def _compile(files: list[str], folder: str) -> None:
    import compileall  # noqa: PLC0415 - for this task only
    import py_compile  # noqa: PLC0415 - for this task only

    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for file in files:
        compileall.compile_file(file, quiet=2, stripdir=folder, invalidation_mode=mode)


def main() -> None:
    """Do the task that the options name."""
    options = json.loads(sys.argv[1])
    confine(options["limits"])
    if options["task"] == "compile":
        compile_all(options["folder"], limits=options["limits"], processes=options["processes"])
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
