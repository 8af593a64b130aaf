"""Code bundles: the files of a project in one state, named by a digest of what is in them.

A bundle is its manifest: which files there are, which of them can be executed, and the pieces that
make up their content. A piece is up to 1 MiB of bytes, named by its SHA-256. The digest of a bundle
is the SHA-256 of its manifest in one exact form of JSON, so that two machines that bundle the same
files give the same digest, and nothing that is stored once is ever stored or sent again.
"""

import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from core.errors import BundleIsTooLargeError, BundleManifestIsInvalidError
from core.ids import VersionId

PIECE_BYTES: Final = 2**20
"""Size of each piece of a file but its last one, which may be smaller and is never empty."""
MAX_PATH_BYTES: Final = 1024
"""Length of a file's path in a bundle, as UTF-8."""
MAX_NAME_BYTES: Final = 255
"""Length of one name in a path: what file systems take."""
SCHEME: Final = "bundle://"
"""How an image begins that names a code bundle; the digest follows."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """One file of a bundle."""

    path: str
    """Relative to the project's folder, with `/` between names."""
    executable: bool
    size: int
    """In bytes."""
    pieces: tuple[str, ...]
    """SHA-256 of each piece, in order."""


@dataclass(frozen=True, kw_only=True)
class BundleLimits:
    """What a bundle may have."""

    total_bytes: int
    file_bytes: int
    files: int


@dataclass(frozen=True)
class Manifest:
    """The files of a bundle, in the order of their paths."""

    files: tuple[BundleFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def pieces(self) -> dict[str, int]:
        """The distinct pieces, with their sizes in bytes."""
        return {
            piece: _piece_size(file, number)
            for file in self.files
            for number, piece in enumerate(file.pieces)
        }

    def to_json(self) -> str:
        """Give the exact form that the digest is made of."""
        files = [
            {
                "executable": file.executable,
                "path": file.path,
                "pieces": list(file.pieces),
                "size": file.size,
            }
            for file in self.files
        ]
        return json.dumps(
            {"files": files}, ensure_ascii=False, separators=(",", ":"), sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read what `to_json` has given."""
        files = json.loads(text)["files"]
        return cls(
            tuple(
                BundleFile(
                    path=file["path"],
                    executable=file["executable"],
                    size=file["size"],
                    pieces=tuple(file["pieces"]),
                )
                for file in files
            )
        )

    @property
    def digest(self) -> str:
        """Name the bundle: 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def checked_manifest(files: Sequence[BundleFile], limits: BundleLimits) -> Manifest:
    """Put the files in order, and refuse what cannot become a folder of files.

    Raises:
        BundleIsTooLargeError: a limit is exceeded; the text names it and what exceeds it.
        BundleManifestIsInvalidError: a path or a size is wrong; the text names the file.
    """
    if len(files) > limits.files:
        raise BundleIsTooLargeError(
            f"The code bundle is too large: it has {len(files)} files, and the limit is "
            f"{limits.files}"
        )
    for file in files:
        _check_path(file.path)
        if file.size > limits.file_bytes:
            raise BundleIsTooLargeError(
                f"The code bundle is too large: the file {file.path!r} has {file.size} bytes, and "
                f"the limit of a file is {limits.file_bytes}"
            )
        wanted = -(-file.size // PIECE_BYTES)
        if len(file.pieces) != wanted:
            raise BundleManifestIsInvalidError(
                f"The file {file.path!r} of {file.size} bytes must have {wanted} pieces of "
                f"{PIECE_BYTES} bytes, the last one with the rest; it has {len(file.pieces)}"
            )
    manifest = Manifest(tuple(sorted(files, key=lambda file: file.path)))
    sizes = manifest.pieces
    for file in files:
        for number, piece in enumerate(file.pieces):
            if sizes[piece] != _piece_size(file, number):
                raise BundleManifestIsInvalidError(f"The piece {piece} is there with two sizes")
    _check_no_file_is_in_the_way([file.path for file in manifest.files])
    if manifest.size > limits.total_bytes:
        raise BundleIsTooLargeError(
            f"The code bundle is too large: its files have {manifest.size} bytes together, and the "
            f"limit is {limits.total_bytes}"
        )
    return manifest


def _piece_size(file: BundleFile, number: int) -> int:
    return min(PIECE_BYTES, file.size - number * PIECE_BYTES)


def _check_path(path: str) -> None:
    names = path.split("/")
    problem = None
    if path.startswith("/"):
        problem = "must be relative"
    elif any(name in {"", ".", ".."} for name in names):
        problem = "must not have empty names, '.' or '..'"
    elif "\0" in path:
        problem = "must not contain NUL characters"
    elif unicodedata.normalize("NFC", path) != path:
        problem = "must be in Unicode's normal form C"
    elif len(path.encode()) > MAX_PATH_BYTES:
        problem = f"must not exceed {MAX_PATH_BYTES} bytes"
    elif any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        problem = f"must not have names of more than {MAX_NAME_BYTES} bytes"
    if problem is not None:
        raise BundleManifestIsInvalidError(f"The path {path[:300]!r} {problem}")


def _check_no_file_is_in_the_way(paths: Sequence[str]) -> None:
    known: set[str] = set()
    for path in paths:
        if path in known:
            raise BundleManifestIsInvalidError(f"The path {path!r} is there twice")
        known.add(path)
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in known:
                raise BundleManifestIsInvalidError(
                    f"The path {folder!r} is that of a file and of a folder"
                )
            folder = folder.rpartition("/")[0]


def digest_of(docker_image: str) -> str | None:
    """Read the digest out of an image; None if it names no code bundle.

    A wrong digest is given as it stands: it is the name of a bundle that does not exist.
    """
    return docker_image.removeprefix(SCHEME) if docker_image.startswith(SCHEME) else None


def is_digest(text: str) -> bool:
    """Say whether a text has the shape of a SHA-256."""
    return _DIGEST.fullmatch(text) is not None


class StoredBundle(ABC):
    """A bundle that can be read."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @abstractmethod
    async def read(self, pieces: Collection[str]) -> dict[str, bytes]:
        """Give the content of pieces: a few MiB at a time.

        Raises:
            BundleIsGoneError: one of them is not stored.
        """


class BundleIsGoneError(Exception):
    """A bundle, or a piece of it, is not stored (any more): its project was deleted, as a rule."""


class BundleSource(Protocol):
    """Where the Temporal worker's provisioner gets code bundles from."""

    async def open(self, version_id: VersionId, digest: str) -> StoredBundle:
        """Find a bundle of the project that a version belongs to.

        Raises:
            BundleIsGoneError: there is no such version, or no such bundle.
        """
