"""Bundles: the same files give the same digest, and what is ignored is not in them."""

import os
import shutil
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
from control_plane._deploy.bundle import PIECE_BYTES, BundleError, make_bundle

from core.bundles import PIECE_BYTES as SERVERS_PIECE_BYTES
from tests.support.bundles import manifest_of

FILES = {
    "main.py": b"def run(): ...\n",
    # Sorts before what is in the folder, whose name sorts before it.
    "package.py": b"",
    "package/module.py": b"x = 1\n",
    "package/data.bin": bytes(range(256)) * 4096 + b"rest",
    "empty": b"",
    "ä.txt": "ä".encode(),
}


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def paths_of(folder: Path) -> list[str]:
    return [file.path for file in make_bundle(folder).files]


def test_two_machines_give_the_same_digest(tmp_path: Path) -> None:
    """Whatever the times, the umask, the order of creation, and the place."""
    here = write(tmp_path / "here", FILES)
    there = write(tmp_path / "somewhere" / "else", dict(reversed(FILES.items())))
    for path in there.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o640)
        os.utime(path, (0, 0))
    assert make_bundle(here).digest == make_bundle(there).digest
    # As the server computes it, and as it was when this test was written.
    assert make_bundle(here).digest == manifest_of(FILES).digest
    assert make_bundle(here).digest == (
        "8f827833ed7e4ab1f248ccc613b550dc5a5b18a76c748a99a1756f15ca9f1b96"
    )
    assert PIECE_BYTES == SERVERS_PIECE_BYTES


def test_a_change_of_a_name_a_content_or_the_executable_bit_gives_another(tmp_path: Path) -> None:
    folder = write(tmp_path, FILES)
    digests = {make_bundle(folder).digest}
    (folder / "main.py").chmod(0o755)
    digests.add(make_bundle(folder).digest)
    (folder / "main.py").write_text("changed")
    digests.add(make_bundle(folder).digest)
    (folder / "main.py").rename(folder / "other.py")
    digests.add(make_bundle(folder).digest)
    assert len(digests) == 4


def test_names_have_one_form(tmp_path: Path) -> None:
    write(tmp_path, {unicodedata.normalize("NFD", "ä.txt"): b""})
    assert paths_of(tmp_path) == [unicodedata.normalize("NFC", "ä.txt")]


@pytest.mark.parametrize(
    ("ignoring", "kept"),
    [
        ({}, ["a.log", "a.py", "build/x.py", "sub/a.log", "sub/build/y.py"]),
        ({".gitignore": "*.log\n"}, ["a.py", "build/x.py", "sub/build/y.py"]),
        ({".gitignore": "/build/\n"}, ["a.log", "a.py", "sub/a.log", "sub/build/y.py"]),
        ({".gitignore": "build/\n"}, ["a.log", "a.py", "sub/a.log"]),
        (
            {".gitignore": "*.log\n", "sub/.gitignore": "!a.log\n"},
            ["a.py", "build/x.py", "sub/a.log", "sub/build/y.py"],
        ),
        ({".gitignore": "sub\n!sub/a.log\n"}, ["a.log", "a.py", "build/x.py"]),
        (
            {".gitignore": "*.log\nbuild\n", ".controlplaneignore": "!/a.log\n"},
            ["a.log", "a.py"],
        ),
        ({".controlplaneignore": "*\n!a.py\n"}, ["a.py"]),
        (
            {".gitignore": "sub/**\n!sub/a.log\n!sub/build/y.py\n"},
            ["a.log", "a.py", "build/x.py", "sub/a.log"],
        ),
        ({".gitignore": "\ufeff*.log\n"}, ["a.py", "build/x.py", "sub/build/y.py"]),
    ],
)
def test_what_git_ignores_is_left_out(
    tmp_path: Path, ignoring: dict[str, str], kept: list[str]
) -> None:
    files = dict.fromkeys(["a.py", "a.log", "build/x.py", "sub/a.log", "sub/build/y.py"], "")
    write(tmp_path, {**files, **ignoring})
    assert [path for path in paths_of(tmp_path) if "ignore" not in path] == kept


def test_some_things_are_always_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.py": "",
            ".git/config": "",
            "sub/__pycache__/x.pyc": "",
            ".venv/bin/python": "",
            "env/pyvenv.cfg": "",
            "env/lib/x.py": "",
            "sub/node_modules/x.js": "",
        },
    )
    os.mkfifo(tmp_path / "pipe")
    assert paths_of(tmp_path) == ["main.py"]


def test_links_to_files_of_the_project_are_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "project", {"a": "content"})
    (folder / "b").symlink_to("a")
    copied = write(tmp_path / "copied", {"a": "content", "b": "content"})
    assert make_bundle(folder).digest == make_bundle(copied).digest


def test_what_cannot_be_bundled_is_named(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    folder = write(tmp_path / "project", {"main.py": "", "sub/x": ""})
    cases: list[tuple[str, str]] = [
        ("../outside", "outside of the project"),
        ("/etc/hostname", "outside of the project"),
        ("sub", "is a link to a folder"),
        ("nowhere", "is a link to nothing"),
        ("link", "is a link to nothing"),
    ]
    for target, text in cases:
        (folder / "link").symlink_to(target)
        with pytest.raises(BundleError, match=text):
            make_bundle(folder)
        # It can be ignored.
        (folder / ".gitignore").write_text("link\n")
        assert len(make_bundle(folder).files) == 3
        (folder / ".gitignore").unlink()
        (folder / "link").unlink()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    with pytest.raises(BundleError, match="is not UTF-8"):
        make_bundle(folder)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="is not a folder"):
        make_bundle(folder)
    folder.mkdir()
    with pytest.raises(BundleError, match="holds no files"):
        make_bundle(folder)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path, FILES)
    bundle = make_bundle(folder)
    pieces = {piece for file in bundle.files for piece in file.pieces}
    assert {piece for piece, _ in bundle.read(pieces)} == pieces
    (folder / "main.py").write_text("changed")
    with pytest.raises(BundleError, match=r"main\.py has changed meanwhile"):
        list(bundle.read(pieces))
