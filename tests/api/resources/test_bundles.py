"""Code bundles: announced, uploaded in pieces, and run by versions."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from api.requests.context import Context
from core.bundles import PIECE_BYTES
from core.settings import ApiSettings
from registry.queries.piece_stores import FolderPieces
from tests.support.api import Api, as_worker, assert_error, execution_id_of
from tests.support.bundles import (
    contents_of,
    definition_of,
    file_definition,
    manifest_of,
    upload_of,
)
from tests.support.harness import STANDARD

BUNDLES = "/projects/shop/bundles"
FILES = {
    "main.py": b"def run(): ...\n",
    "data/large.bin": bytes(range(256)) * (PIECE_BYTES // 256) + b"the rest",
    "data/empty": b"",
    "ä.txt": "ä".encode(),
}


@pytest.fixture
def api_settings() -> ApiSettings:
    return ApiSettings(bundle_limit_mb=3, bundle_file_limit_mb=2, bundle_files_limit=5)


@pytest.fixture(autouse=True)
async def project(api: Api) -> None:
    await api.ok("PUT", "/projects/shop")


@pytest.fixture(params=["postgres", "folder"])
def either_store(request: pytest.FixtureRequest, app: FastAPI, tmp_path: Path) -> str:
    """Both stores, one after the other."""
    if request.param == "folder":
        context: Context = app.state.context
        app.state.context = Context(**{**vars(context), "pieces": FolderPieces(tmp_path)})
    return str(request.param)


def piece_of(content: bytes) -> str:
    (piece,) = contents_of({"": content})
    return piece


async def upload(api: Api, digest: str, contents: dict[str, bytes]) -> Any:
    return await api.post(f"{BUNDLES}/{digest}/pieces", content=upload_of(contents))


async def register(api: Api, image: str) -> Any:
    body = {"default_docker_image": image, "functions": [STANDARD]}
    return await api.post("/projects/shop/versions", json=body)


async def test_only_what_is_missing_is_asked_for(api: Api, either_store: str) -> None:
    contents = contents_of(FILES)
    assert len(contents) == 4
    announced = await api.ok("POST", BUNDLES, json=definition_of(FILES))
    assert announced == {
        "project_name": "shop",
        "digest": manifest_of(FILES).digest,
        "size": sum(map(len, FILES.values())),
        "missing_pieces": sorted(contents),
    }
    digest = announced["digest"]
    some, rest = sorted(contents)[:1], sorted(contents)[1:]
    answer = await upload(api, digest, {piece: contents[piece] for piece in some})
    assert (answer.status_code, answer.json()) == (200, {"pieces": some})
    again = await api.ok("POST", BUNDLES, json=definition_of(FILES))
    assert again["missing_pieces"] == rest

    detail = (
        f"The code bundle {digest} has not been uploaded completely: 3 of its 4 pieces are missing"
    )
    assert_error(await register(api, f"bundle://{digest}"), 400, detail)
    assert (await upload(api, digest, {p: contents[p] for p in rest})).status_code == 200
    version = await register(api, f"bundle://{digest}")
    assert version.status_code == 200
    assert version.json()["functions"][0]["docker_image"] == f"bundle://{digest}"

    changed = await api.ok("POST", BUNDLES, json=definition_of({**FILES, "main.py": b"changed"}))
    assert len(changed["missing_pieces"]) == 1
    assert either_store in {"postgres", "folder"}


async def test_the_order_of_the_files_changes_nothing(api: Api) -> None:
    definition = definition_of(FILES)
    one = await api.ok("POST", BUNDLES, json=definition)
    other = await api.ok("POST", BUNDLES, json={"files": definition["files"][::-1]})
    assert one == other


async def test_an_executable_file_makes_another_bundle(api: Api) -> None:
    digests = {
        (await api.ok("POST", BUNDLES, json={"files": [file]}))["digest"]
        for file in (
            file_definition("run", b"x"),
            file_definition("run", b"x", executable=True),
        )
    }
    assert len(digests) == 2


async def test_a_version_of_an_unknown_bundle_is_refused(api: Api) -> None:
    for name in ("0" * 64, "no digest"):
        detail = f"The code bundle {name!r} has not been uploaded to this project"
        assert_error(await register(api, f"bundle://{name}"), 400, detail)
        body = {
            "default_docker_image": "image:1",
            "functions": [{**STANDARD, "docker_image_override": f"bundle://{name}"}],
        }
        assert_error(await api.post("/projects/shop/versions", json=body), 400, detail)
    assert (await api.ok("GET", "/projects/shop/versions"))["versions"] == []


async def test_a_bundle_of_another_project_is_unknown(api: Api) -> None:
    digest = (await api.ok("POST", BUNDLES, json=definition_of({"a": b""})))["digest"]
    assert (await register(api, f"bundle://{digest}")).status_code == 200
    await api.ok("PUT", "/projects/other")
    body = {"default_docker_image": f"bundle://{digest}", "functions": []}
    answer = await api.post("/projects/other/versions", json=body)
    detail = f"The code bundle {digest!r} has not been uploaded to this project"
    assert_error(answer, 400, detail)


@pytest.mark.parametrize(
    ("files", "detail"),
    [
        ([file_definition("/etc/passwd", b"")], "The path '/etc/passwd' must be relative"),
        (
            [file_definition("a/../../b", b"")],
            "The path 'a/../../b' must not have empty names, '.' or '..'",
        ),
        ([file_definition("a//b", b"")], "The path 'a//b' must not have empty names, '.' or '..'"),
        ([file_definition("", b"")], "The path '' must not have empty names, '.' or '..'"),
        (
            [file_definition("a\u0308", b"")],
            "The path 'a\u0308' must be in Unicode's normal form C",
        ),
        (
            [file_definition("a" * 256, b"")],
            f"The path {'a' * 256!r} must not have names of more than 255 bytes",
        ),
        (
            [file_definition("a/" * 512 + "b", b"")],
            f"The path {('a/' * 150)!r} must not exceed 1024 bytes",
        ),
        (
            [file_definition("a", b""), file_definition("a", b"x")],
            "The path 'a' is there twice",
        ),
        (
            [file_definition("a/b/c", b""), file_definition("a", b"")],
            "The path 'a' is that of a file and of a folder",
        ),
        (
            [{**file_definition("a", b"abc"), "size": 0}],
            "The file 'a' of 0 bytes must have 0 pieces of 1048576 bytes, the last one with the rest; it has 1",  # noqa: E501
        ),
        (
            [file_definition("a", b"abc"), {**file_definition("b", b"abc"), "size": 2}],
            f"The piece {piece_of(b'abc')} is there with two sizes",
        ),
        (
            [
                {
                    **file_definition("a", b""),
                    "size": PIECE_BYTES + 1,
                    "pieces": [piece_of(b"abc"), piece_of(b"rest")],
                },
                file_definition("b", b"abc"),
            ],
            f"The piece {piece_of(b'abc')} is there with two sizes",
        ),
    ],
)
async def test_what_cannot_become_a_folder_is_refused(
    api: Api, files: list[object], detail: str
) -> None:
    assert_error(await api.post(BUNDLES, json={"files": files}), 400, detail)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"path": "a\0b"}, "path"),
        ({"path": "a\ud800"}, "path"),
        ({"size": -1}, "size"),
        ({"pieces": ["f" * 63]}, "pieces"),
        ({"pieces": ["F" * 64]}, "pieces"),
        ({"executable": "perhaps"}, "executable"),
    ],
)
async def test_fields_of_a_wrong_shape_are_named(
    api: Api, change: dict[str, object], place: str
) -> None:
    # Through json.dumps, since the client refuses lone surrogates.
    body = json.dumps({"files": [{**file_definition("a", b""), **change}]})
    answer = await api.post(BUNDLES, content=body.encode())
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:4] == ["body", "files", 0, place]


async def test_the_limits_are_named(api: Api) -> None:
    mib = {**file_definition("a", b""), "size": 2**20, "pieces": ["1" * 64]}
    cases = [
        (
            [{**mib, "path": str(number)} for number in range(6)],
            "it has 6 files, and the limit is 5",
        ),
        (
            [{**mib, "size": 2 * 2**20 + 1}],
            "the file 'a' has 2097153 bytes, and the limit of a file is 2097152",
        ),
        (
            [{**mib, "path": str(number)} for number in range(4)],
            "its files have 4194304 bytes together, and the limit is 3145728",
        ),
    ]
    for files, detail in cases:
        answer = await api.post(BUNDLES, json={"files": files})
        assert_error(answer, 413, f"The code bundle is too large: {detail}")


async def test_pieces_that_do_not_fit_are_refused(api: Api) -> None:
    digest = (await api.ok("POST", BUNDLES, json=definition_of({"a": b"abc"})))["digest"]
    path = f"{BUNDLES}/{digest}/pieces"
    (piece,) = contents_of({"a": b"abc"})
    other = next(iter(contents_of({"a": b"other"})))
    cases = [
        (b"abc", "At byte 0 there must be a piece: its SHA-256, a space, its length, a newline, "),
        (f"{piece} 4\nabc".encode(), "The piece at byte 0 is cut off"),
        (f"{piece} 0\n".encode(), "The piece at byte 0 must have 1 to 1048576 bytes"),
        (f"{piece} 3\nabd".encode(), "The piece at byte 0 does not have the SHA-256 that is named"),
        (f"{piece} 3\nabc{piece} -3\n".encode(), "At byte 70 there must be a piece: "),
        (f"{piece} ٣\nabc".encode(), "At byte 0 there must be a piece: "),
        (f"{other} 5\nother".encode(), f"The piece {other} of 5 bytes is not in this code bundle"),
    ]
    for body, detail in cases:
        answer = await api.post(path, content=body)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(detail), answer.text
    too_large = await api.post(path, content=bytes(4 * 2**20 + 1))
    assert too_large.status_code == 413
    assert too_large.json()["detail"].startswith("The request body is too large")
    assert len((await api.ok("POST", BUNDLES, json=definition_of({"a": b"abc"})))["missing_pieces"])


async def test_what_is_not_there_is_a_404(api: Api) -> None:
    definition = definition_of({"a": b"abc"})
    missing = await api.post("/projects/nobody/bundles", json=definition)
    assert_error(missing, 404, "A project with this name does not exist")
    answer = await api.post(f"{BUNDLES}/{'0' * 64}/pieces", content=b"")
    assert_error(answer, 404, "A code bundle with this digest does not exist for this project")
    body = {"default_docker_image": "bundle://x", "functions": []}
    answer = await api.post("/projects/nobody/versions", json=body)
    assert_error(answer, 404, "A project with this name does not exist")


async def test_a_project_that_is_being_deleted_takes_no_bundle(api: Api) -> None:
    definition = definition_of({"a": b"abc"})
    digest = (await api.ok("POST", BUNDLES, json=definition))["digest"]
    await api.ok("DELETE", "/projects/shop")
    detail = "The project is being deleted"
    assert_error(await api.post(BUNDLES, json=definition), 400, detail)
    assert_error(await upload(api, digest, contents_of({"a": b"abc"})), 400, detail)


async def test_only_users_may_upload(api: Api, function: str) -> None:
    execution = await api.add_execution(await api.invoke(function))
    for headers, detail in (
        ({}, "Not authenticated"),
        (as_worker(execution_id_of(execution)), "This key is a worker's token."),
    ):
        for path in (BUNDLES, f"{BUNDLES}/{'0' * 64}/pieces"):
            answer = await api.post(path, headers=headers, json={"files": []})
            assert answer.status_code == 403
            assert answer.json()["detail"].startswith(detail)
