"""Code bundles, as they are announced and uploaded."""

from typing import Annotated, Final

from pydantic import Field

from core.contract.base import CleanText, ContractModel

SHA256: Final = r"^[0-9a-f]{64}$"

PieceDigest = Annotated[str, Field(pattern=SHA256)]
"""SHA-256 of a piece: 64 hexadecimal digits in lower case."""


class BundleFileDefinition(ContractModel):
    """One file of a code bundle."""

    path: CleanText
    """Relative, with `/` between names, in Unicode's normal form C."""
    executable: bool = False
    size: Annotated[int, Field(ge=0)]
    """In bytes."""
    pieces: list[PieceDigest]
    """SHA-256 of each MiB of the content, the last one with the rest; empty for an empty file."""


class BundleDefinition(ContractModel):
    """The files of a code bundle, in any order."""

    files: list[BundleFileDefinition]


class BundleInfo(ContractModel):
    """A code bundle, and what is still to be uploaded of it."""

    project_name: str
    digest: str
    """SHA-256 of the manifest. `bundle://` with the digest is an image for a version."""
    size: int
    """Bytes of all its files together."""
    missing_pieces: list[str]
    """The pieces that the server does not have. When there are none, the bundle is complete."""


class UploadedPieces(ContractModel):
    """What is stored now."""

    pieces: list[str]
    """SHA-256 of each piece that was uploaded."""
