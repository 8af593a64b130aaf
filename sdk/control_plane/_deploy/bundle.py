"""Code bundles: the files of a project folder, named by a digest of what is in them.

The digest depends on the paths, the contents and the executable bits alone: not on times, owners,
other permissions, or the order in which a file system lists its entries. So the same files give the
same digest on every machine.
"""

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from control_plane.errors import ControlPlaneError

PIECE_BYTES: Final = 2**20
"""Files are uploaded in pieces of this size; the server counts on it."""
IGNORE_FILES: Final = (".gitignore", ".controlplaneignore")
"""Both have the syntax of git; the second one has the last word."""
ALWAYS_IGNORED: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "__pycache__",
        "node_modules",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".DS_Store",
    }
)
"""Names that are never part of a bundle. A folder with a `pyvenv.cfg` is not, either."""


class BundleError(ControlPlaneError):
    """A folder that cannot be bundled; one line that names the file and says what to do."""


@dataclass(frozen=True, kw_only=True)
class BundledFile:
    """One file, as it was when the bundle was made."""

    path: str
    """Relative to the project's folder, with `/` between names."""
    source: Path
    executable: bool
    size: int
    """In bytes."""
    pieces: tuple[str, ...]
    """SHA-256 of each MiB."""


@dataclass(frozen=True)
class Bundle:
    """The files of a project folder, in the order of their paths."""

    files: tuple[BundledFile, ...]

    @cached_property
    def manifest(self) -> dict[str, object]:
        """What the server is told; the digest is made of its one exact form."""
        return {
            "files": [
                {
                    "executable": file.executable,
                    "path": file.path,
                    "pieces": list(file.pieces),
                    "size": file.size,
                }
                for file in self.files
            ]
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest: 64 hexadecimal digits."""
        text = json.dumps(self.manifest, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def image(self) -> str:
        """What a version names to run this code."""
        return f"bundle://{self.digest}"

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def read(self, pieces: set[str]) -> Iterator[tuple[str, bytes]]:
        """Give the content of some pieces, each once.

        Raises:
            BundleError: a file has changed since the bundle was made.
        """
        left = set(pieces)
        for file in self.files:
            for number, piece in enumerate(file.pieces):
                if piece not in left:
                    continue
                left.remove(piece)
                content = _read_piece(file.source, number)
                if hashlib.sha256(content).hexdigest() != piece:
                    raise BundleError(f"{file.source} has changed meanwhile: deploy again")
                yield piece, content


def make_bundle(folder: Path) -> Bundle:
    """Bundle what is in a folder, except for what is ignored.

    Raises:
        BundleError: something in it cannot be bundled.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder")
    files: dict[str, BundledFile] = {}
    try:
        for source, name in _find(folder, folder, []):
            path = _portable(name, source)
            if path in files:
                raise BundleError(f"{source} and {files[path].source} have the same name")
            files[path] = _read(source, path)
    except OSError as error:
        raise BundleError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    if not files:
        raise BundleError(f"{folder} holds no files that are not ignored")
    return Bundle(tuple(files[path] for path in sorted(files)))


@dataclass(frozen=True, kw_only=True)
class Survey:
    """How large a bundle of a folder would be; its files were not read."""

    files: int
    size: int
    """In bytes."""
    largest: tuple[tuple[str, int], ...]
    """Its largest files and their sizes, three at most."""
    is_complete: bool
    """Whether this is all, or the count was broken off."""


def survey(folder: Path, *, files: int, size: int) -> Survey:
    """Count the files that a bundle of a folder would hold, up to the given numbers.

    Raises:
        BundleError: something in it cannot be bundled.
    """
    sizes: list[tuple[str, int]] = []
    total, is_complete = 0, True
    try:
        for source, name in _find(folder, folder, []):
            sizes.append((name, source.stat().st_size))
            total += sizes[-1][1]
            if len(sizes) > files or total > size:
                is_complete = False
                break
    except OSError as error:
        raise BundleError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    largest = sorted(sizes, key=lambda item: item[1], reverse=True)[:3]
    return Survey(files=len(sizes), size=total, largest=tuple(largest), is_complete=is_complete)


_Ignoring = list[tuple[Path, GitIgnoreSpec]]


def _find(folder: Path, root: Path, outer: _Ignoring) -> Iterator[tuple[Path, str]]:
    rules = [*outer, *_rules_of(folder)]
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in ALWAYS_IGNORED or _is_ignored(path, rules, is_folder=is_folder):
            continue
        if entry.is_symlink():
            if _is_file_within(path, root):
                yield path, str(path.relative_to(root))
        elif is_folder:
            if not (path / "pyvenv.cfg").exists():
                yield from _find(path, root, rules)
        elif entry.is_file():
            yield path, str(path.relative_to(root))


def _rules_of(folder: Path) -> _Ignoring:
    lines: list[str] = []
    for name in IGNORE_FILES:
        file = folder / name
        if file.is_file():
            # Git, too, leaves out a byte order mark.
            lines += file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    return [(folder, GitIgnoreSpec.from_lines(lines))] if lines else []


def _is_ignored(path: Path, rules: _Ignoring, *, is_folder: bool) -> bool:
    # The innermost rules come first, and within them the last line that matches counts.
    for folder, spec in reversed(rules):
        name = str(path.relative_to(folder)) + ("/" if is_folder else "")
        result = spec.check_file(name)
        if result.index is not None and str(spec.patterns[result.index].pattern).endswith("/**"):
            # `folder/**` is about what is in the folder, of which a later line may keep something;
            # with its slash at the end the folder itself would be taken for such a thing.
            result = spec.check_file(name.rstrip("/"))
        if result.include is not None:
            return result.include
    return False


def _is_file_within(link: Path, root: Path) -> bool:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BundleError(f"{link} is a link to nothing: remove it, or ignore it") from None
    if not target.is_relative_to(root.resolve()):
        raise BundleError(
            f"{link} is a link to {target}, outside of the project: copy it, or ignore it"
        )
    if target.is_dir():
        raise BundleError(f"{link} is a link to a folder: copy it, or ignore it")
    return target.is_file()


def _portable(name: str, source: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BundleError(f"The name of {source!r} is not UTF-8: rename it, or ignore it") from None
    # macOS hands names out in another form than the one they are usually written in.
    return unicodedata.normalize("NFC", name.replace(os.sep, "/"))


def _read(source: Path, path: str) -> BundledFile:
    pieces = []
    size = 0
    with source.open("rb") as file:
        executable = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
        while content := file.read(PIECE_BYTES):
            pieces.append(hashlib.sha256(content).hexdigest())
            size += len(content)
    return BundledFile(
        path=path, source=source, executable=executable, size=size, pieces=tuple(pieces)
    )


def _read_piece(source: Path, number: int) -> bytes:
    try:
        with source.open("rb") as file:
            file.seek(number * PIECE_BYTES)
            return file.read(PIECE_BYTES)
    except OSError:
        return b""
