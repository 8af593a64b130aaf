"""What users' files can do while they are read: attacks, and what is said of them."""

import asyncio
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioners.base import UnrecoverableProvisioningError
from provisioners.code import confined_program
from provisioners.code.confined import PARSE_SECONDS, read_facts
from provisioners.code.confined_program import MAX_FILE_BYTES, MAX_LOCK_BYTES
from provisioners.code.facts import ProjectFacts
from tests.support.harness import eventually_true
from tests.support.provisioners.bundles_in_memory import PRINTS_TINY, Bundles, files_of
from tests.support.provisioners.process_backend import ProcessBackend, process_ids

DOTTED = ".".join(["a"] * 14_000) + " = 1"
"""28 KB that took 15 s and 0.76 GB to parse."""
DOTTED_200_KB = ".".join(["a"] * 100_000) + " = 1"
NESTED = "a = " + "[" * 100_000
HUGE_NUMBER = "a = " + "9" * 100_000


def facts_of(folder: Path, **files: str | bytes) -> ProjectFacts:
    """Reads a project whose files have these names, with a dot for `_`."""
    (folder / "main.py").touch()
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("_", ".")).write_bytes(data)
    return read_facts(folder, dependencies=True)


@pytest.mark.parametrize(
    ("bomb", "text"),
    [
        (DOTTED, "it takes more than"),
        (DOTTED_200_KB, "it takes more than"),
        (NESTED, "it is nested too deeply"),
        (HUGE_NUMBER, "Exceeds the limit"),
        ("#" * (MAX_FILE_BYTES + 1), "more than 262,144 bytes"),
        (b"a = '\xff'", "it is not UTF-8"),
        ("a = ", "Invalid value"),
    ],
)
@pytest.mark.parametrize("name", ["pyproject.toml", "control-plane.toml"])
def test_a_bomb_is_refused_and_costs_this_process_nothing(
    tmp_path: Path, name: str, bomb: str | bytes, text: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    facts = facts_of(tmp_path, **{name: bomb})
    after = resource.getrusage(resource.RUSAGE_SELF)

    assert facts.problem is not None
    assert facts.problem.startswith(f"{name} cannot be ")
    assert text in facts.problem
    with pytest.raises(UnrecoverableProvisioningError, match=text):
        facts.check()
    # KiB. The first one took 760 MB here, and 15 s.
    assert after.ru_maxrss - before.ru_maxrss < 50_000
    assert after.ru_utime - before.ru_utime < PARSE_SECONDS / 2


def test_no_other_part_of_the_server_parses_toml() -> None:
    root = Path(confined_program.__file__).parents[2]
    rooms = (
        *("core", "registry", "provisioners", "activities", "workflows"),
        *("runtime", "worker", "api", "standalone"),
    )
    parsing = [
        path
        for room in rooms
        for path in (root / room).rglob("*.py")
        if "tomllib" in path.read_text()
    ]
    assert parsing == [Path(confined_program.__file__)]


def test_the_limits_of_size_are_those_of_the_files(tmp_path: Path) -> None:
    lines = b"tiny\n".ljust(MAX_FILE_BYTES, b"\n")
    assert facts_of(tmp_path, requirements_txt=lines).problem is None
    assert facts_of(tmp_path, requirements_txt=lines + b"\n").problem == (
        "requirements.txt cannot be read: more than 262,144 bytes"
    )
    (tmp_path / "requirements.txt").unlink()
    lock = b"#".ljust(MAX_LOCK_BYTES, b"\n")
    (tmp_path / "uv.lock").write_bytes(lock)
    found = facts_of(tmp_path, pyproject_toml="").dependencies
    assert found is not None
    assert found.source == "uv.lock"
    (tmp_path / "uv.lock").write_bytes(lock + b"\n")
    assert facts_of(tmp_path).problem == "uv.lock cannot be read: more than 4,194,304 bytes"


def test_beside_a_lock_the_project_file_is_not_parsed(tmp_path: Path) -> None:
    """It is read by uv only, which is an installer."""
    (tmp_path / "uv.lock").touch()
    found = facts_of(tmp_path, pyproject_toml=DOTTED).dependencies
    assert found is not None
    assert found.source == "uv.lock"


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


@pytest.mark.parametrize("name", ["pyproject.toml", "control-plane.toml", "requirements.txt"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkfifo, "it is not a regular file"),
        (os.mkdir, "it is not a regular file"),
        (_sparse, "more than 262,144 bytes"),
        (lambda path: path.symlink_to("/etc/shadow"), "it is a link"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a link"),
        (lambda path: path.symlink_to("/nowhere"), "it is a link"),
    ],
    ids=["fifo", "folder", "sparse", "shadow", "zero", "nowhere"],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None], text: str
) -> None:
    make(tmp_path / name)
    assert facts_of(tmp_path).problem == f"{name} cannot be read: {text}"


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").symlink_to("/dev/zero")
    problem = facts_of(tmp_path, pyproject_toml="").problem
    assert problem == "uv.lock cannot be read: it is a link"


def test_code_is_found_at_any_depth_and_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "circle").symlink_to("..")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "x.py").touch()
    assert not read_facts(tmp_path, dependencies=True).is_python
    (tmp_path / "a" / "b" / "job.py").touch()
    assert read_facts(tmp_path, dependencies=True).is_python


def test_a_command_that_no_kernel_takes_is_refused(tmp_path: Path) -> None:
    problem = facts_of(tmp_path, **{"control-plane.toml": f"command = ['{'x' * 70_000}']"}).problem
    assert problem == "control-plane.toml: 'command' has more than 65,536 bytes"


async def test_a_parser_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """kill -9, in the middle of a file that takes its time."""
    (tmp_path / "control-plane.toml").write_text(DOTTED)
    script = """
        import sys
        from pathlib import Path
        from provisioners.code.confined import read_facts
        read_facts(Path(sys.argv[1]), dependencies=False)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    server = await asyncio.create_subprocess_exec(*command)
    try:
        await eventually_true(lambda: len(children_of(server.pid)) == 1)
        (parser,) = children_of(server.pid)
        assert environment_of(parser) == b""
    finally:
        server.kill()
        await server.wait()
    await eventually_true(lambda: parser not in process_ids())


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def children_of(pid: int) -> list[int]:
    """Those that have become another program already."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"confined_program" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


async def test_a_bundle_is_read_once_however_often_it_is_called(
    backend: ProcessBackend, bundles: Bundles, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[object] = []
    start = subprocess.Popen

    def counted(*arguments: object, **options: object) -> object:
        if '"task": "read"' in str(arguments):
            starts.append(arguments)
        return start(*arguments, **options)  # type: ignore[call-overload] # as it is called

    monkeypatch.setattr(subprocess, "Popen", counted)
    image = bundles.add({**PRINTS_TINY, "pyproject.toml": b""})
    function = backend.function_for(image)
    for _ in range(3):
        await backend.provisioner.prepare(function)
    assert len(starts) == 1
    # What somebody puts in the place of what was kept is neither waited for nor believed.
    kept = files_of(code, image).parent / "facts.json"
    kept.unlink()
    os.mkfifo(kept)
    await backend.provisioner.prepare(function)
    assert len(starts) == 2
    kept.chmod(0o600)
    kept.write_text('{"command": ["evil", 1]}')
    await backend.provisioner.prepare(function)
    assert len(starts) == 3


async def test_a_bundle_with_a_bomb_fails_with_one_line(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    image = bundles.add({"main.py": b"", "pyproject.toml": DOTTED.encode()})
    for _ in range(2):
        with pytest.raises(UnrecoverableProvisioningError) as caught:
            await backend.provisioner.prepare(backend.function_for(image))
        assert str(caught.value).startswith("pyproject.toml cannot be parsed: it takes more than")
    assert len(bundles.opened) == 1
