"""Routes for code bundles. See `core.bundles` for what a bundle is."""

import hashlib
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request

from api.access.authentication import AuthenticatedRoute
from api.access.authorisation import RootOnly
from api.requests.context import ContextDep
from api.requests.errors import responses
from api.requests.parameters import ProjectName
from core.bundles import (
    PIECE_BYTES,
    BundleFile,
    BundleLimits,
    checked_manifest,
)
from core.contract.bundles import SHA256, BundleDefinition, BundleInfo, UploadedPieces
from core.errors import (
    BundleDoesNotExistError,
    BundleIsTooLargeError,
    BundleManifestIsInvalidError,
    BundlePieceIsInvalidError,
    ProjectDoesNotExistError,
    ProjectIsBeingDeletedError,
)
from core.settings import ApiSettings
from registry.queries import bundles

router = APIRouter(
    prefix="/projects/{project_name}/bundles", tags=["bundles"], route_class=AuthenticatedRoute
)

BundleDigest = Annotated[str, Path(pattern=SHA256, description="The bundle's digest")]

_PIECES_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": (
            "Pieces, one after the other: the SHA-256, a space, the length in bytes as a decimal "
            "number, a newline, and the bytes. At most 4 MiB in one request"
        ),
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_MAX_HEADER_BYTES: Final = 80


@router.post(
    "",
    dependencies=[RootOnly],
    responses=responses(
        BundleManifestIsInvalidError,
        ProjectIsBeingDeletedError,
        ProjectDoesNotExistError,
        BundleIsTooLargeError,
        with_body=True,
    ),
)
async def announce_bundle(
    project_name: ProjectName, definition: BundleDefinition, context: ContextDep
) -> BundleInfo:
    """Announce a code bundle; says which pieces the server does not have yet.

    Announcing it again is harmless. A bundle that no version runs is kept for a day.
    """
    manifest = checked_manifest(
        [
            BundleFile(
                path=file.path,
                executable=file.executable,
                size=file.size,
                pieces=tuple(file.pieces),
            )
            for file in definition.files
        ],
        _limits(context.api_settings),
    )
    async with context.registry.transaction() as session:
        project_id = await bundles.announce(
            session, project_name=project_name, manifest=manifest, pieces=context.pieces
        )
    return BundleInfo(
        project_name=project_name,
        digest=manifest.digest,
        size=manifest.size,
        missing_pieces=await context.pieces.missing(project_id, manifest.pieces),
    )


@router.post(
    "/{digest}/pieces",
    dependencies=[RootOnly],
    responses=responses(
        BundlePieceIsInvalidError,
        ProjectIsBeingDeletedError,
        ProjectDoesNotExistError,
        BundleDoesNotExistError,
        with_body=True,
    ),
    openapi_extra=_PIECES_BODY,
)
async def upload_pieces(
    project_name: ProjectName, digest: BundleDigest, request: Request, context: ContextDep
) -> UploadedPieces:
    """Upload some pieces of a code bundle. Uploading one again is harmless."""
    contents = _read_pieces(await request.body())
    async with context.registry.autocommit() as session:
        project_id = await bundles.find_project(session, project_name=project_name)
        sizes = (await bundles.get_manifest(session, project_id, digest)).pieces
    for piece, content in contents.items():
        if sizes.get(piece) != len(content):
            raise BundlePieceIsInvalidError(
                f"The piece {piece} of {len(content)} bytes is not in this code bundle"
            )
    await bundles.store_pieces(context.registry, context.pieces, project_id, contents=contents)
    return UploadedPieces(pieces=list(contents))


def _limits(settings: ApiSettings) -> BundleLimits:
    return BundleLimits(
        total_bytes=settings.bundle_limit_mb * 2**20,
        file_bytes=settings.bundle_file_limit_mb * 2**20,
        files=settings.bundle_files_limit,
    )


def _read_pieces(body: bytes) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    position = 0
    while position < len(body):
        end = body.find(b"\n", position, position + _MAX_HEADER_BYTES)
        piece, _, length = body[position : max(end, position)].decode("latin-1").partition(" ")
        # isdecimal alone would let other scripts' digits through.
        if end < 0 or not (length.isascii() and length.isdecimal()):
            raise BundlePieceIsInvalidError(
                f"At byte {position} there must be a piece: its SHA-256, a space, its length, a "
                "newline, and its bytes"
            )
        content = body[end + 1 : end + 1 + int(length)]
        if len(content) < int(length):
            raise BundlePieceIsInvalidError(f"The piece at byte {position} is cut off")
        if not 0 < len(content) <= PIECE_BYTES:
            raise BundlePieceIsInvalidError(
                f"The piece at byte {position} must have 1 to {PIECE_BYTES} bytes"
            )
        if hashlib.sha256(content).hexdigest() != piece:
            raise BundlePieceIsInvalidError(
                f"The piece at byte {position} does not have the SHA-256 that is named"
            )
        contents[piece] = content
        position = end + 1 + len(content)
    return contents
