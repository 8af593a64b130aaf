"""Bundles of a test's own making, without the SDK: what any client would send."""

import hashlib
from collections.abc import Iterable, Mapping

from core.bundles import PIECE_BYTES, BundleFile, Manifest
from tests.support.harness import Json


def pieces_of(content: bytes) -> dict[str, bytes]:
    parts = [content[i : i + PIECE_BYTES] for i in range(0, len(content), PIECE_BYTES)]
    return {hashlib.sha256(part).hexdigest(): part for part in parts}


def file_definition(path: str, content: bytes, *, executable: bool = False) -> Json:
    parts = [content[i : i + PIECE_BYTES] for i in range(0, len(content), PIECE_BYTES)]
    return {
        "path": path,
        "executable": executable,
        "size": len(content),
        "pieces": [hashlib.sha256(part).hexdigest() for part in parts],
    }


def definition_of(files: Mapping[str, bytes]) -> Json:
    return {"files": [file_definition(path, content) for path, content in files.items()]}


def manifest_of(files: Mapping[str, bytes], *, executable: Iterable[str] = ()) -> Manifest:
    return Manifest(
        tuple(
            BundleFile(
                path=path,
                executable=path in set(executable),
                size=len(content),
                pieces=tuple(file_definition(path, content)["pieces"]),
            )
            for path, content in sorted(files.items())
        )
    )


def contents_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {piece: part for content in files.values() for piece, part in pieces_of(content).items()}


def upload_of(contents: Mapping[str, bytes]) -> bytes:
    return b"".join(
        b"%s %d\n%s" % (piece.encode(), len(content), content)
        for piece, content in contents.items()
    )
