"""Deploys a project folder: finds its functions, uploads its code, registers a version, waits."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from control_plane._deploy.bundle import Bundle, make_bundle
from control_plane._deploy.discovery import discover
from control_plane._http import requests
from control_plane._http.client import Client
from control_plane.errors import ConflictError, ControlPlaneError
from control_plane.models import Version

Stage = Literal["find", "bundle", "upload", "register", "prepare"]

Report = Callable[[Stage, str], None]
"""Gets what is being done; each call replaces what was said of the stage before."""

UPLOAD_BYTES: Final = 3_500_000
"""Of pieces in one request, which may have 4 MiB."""
PIECE_HEAD_BYTES: Final = 80
"""At most, before each piece of a request."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


class DeploymentError(ControlPlaneError):
    """The server reads a bundle otherwise than this library: they do not fit together."""


@dataclass(frozen=True, kw_only=True)
class FunctionState:
    """How far a function is."""

    name: str
    status: str
    """PENDING, READY or FAILED."""
    error: str | None
    """Why it has failed, or what is in its way."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A version that was registered."""

    project: str
    version_id: str
    image: str
    functions: tuple[FunctionState, ...]
    uploaded_bytes: int

    @property
    def is_ready(self) -> bool:
        """Whether all functions are."""
        return all(function.status == "READY" for function in self.functions)

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return all(function.status != "PENDING" for function in self.functions)


def _say_nothing(_stage: Stage, _text: str) -> None:
    pass


def deploy(
    client: Client,
    folder: Path,
    *,
    project: str,
    image: str | None = None,
    modules: Sequence[str] = (),
    python: Path | None = None,
    wait_seconds: float = 1800,
    report: Report = _say_nothing,
) -> Deployment:
    """Deploy a folder. Doing it again uploads only what has changed.

    Args:
        client: the way to the server.
        folder: the project's folder.
        project: its name; the project is created if need be.
        image: a container image that holds the code, instead of uploading it.
        modules: where to look for functions (`discovery.discover`).
        python: the interpreter to look for them with.
        wait_seconds: how long to wait until the functions are prepared.
        report: gets a stage and what is being done in it; each call replaces what was said of the
            stage before.

    Returns:
        The version. Its functions are READY or FAILED, or still PENDING when the time was up.

    Raises:
        DiscoveryError: the functions cannot be found.
        BundleError: the folder cannot be bundled.
        DeploymentError: the server cannot take this bundle.
        Also what `Client` raises.
    """
    report("find", "")
    found = discover(folder, modules=modules, python=python)
    names = [spec["function_name"] for spec in found.functions]
    report("find", f"{_counted(len(names), 'function')}: {', '.join(names)}")
    uploaded = 0
    if image is None:
        report("bundle", "")
        bundle = make_bundle(folder)
        report("bundle", f"{_counted(len(bundle.files), 'file')}, {size_text(bundle.size)}")
    _create_project(client, project)
    if image is None:
        uploaded = _upload(client, bundle, project=project, report=report)
        image = bundle.image
    report("register", "")
    definition = {"default_docker_image": image, "functions": found.functions}
    # If the first answer was lost there are two versions, and no call goes to the first one.
    registration = replace(requests.create_version(project, definition), repeatable=True)
    version = client.run(registration)
    report("register", version.version_id)
    version = _wait(client, version, seconds=wait_seconds, report=report)
    return Deployment(
        project=project,
        version_id=version.version_id,
        image=image,
        functions=tuple(_states_of(version)),
        uploaded_bytes=uploaded,
    )


def _create_project(client: Client, project: str) -> None:
    """Create a project; fine if it is there.

    Raises:
        What `Client` raises.
    """
    try:
        client.create_project(project)
    except ConflictError:
        return


def _upload(client: Client, bundle: Bundle, *, project: str, report: Report) -> int:
    """Upload what the server does not have of a bundle; returns how many bytes that was.

    Raises:
        BundleError: a file has changed meanwhile.
        DeploymentError: the server reads the bundle otherwise than this library.
        Also what `Client` raises.
    """
    report("upload", "")
    announced = client.run(requests.announce_bundle(project, bundle.manifest))
    if announced.digest != bundle.digest:
        raise DeploymentError(
            "The server gives the code bundle another digest: library and server do not fit "
            "together"
        )
    sent = 0
    for batch in _batches(bundle.read(set(announced.missing_pieces))):
        client.run(requests.upload_pieces(project, bundle.digest, batch))
        sent += sum(len(content) for _, content in batch)
        report("upload", size_text(sent))
    if not announced.missing_pieces:
        report("upload", "nothing has changed")
    return sent


def _batches(pieces: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Put pieces together that fit into one request."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for piece, content in pieces:
        if batch and size + len(content) > UPLOAD_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((piece, content))
        size += len(content) + PIECE_HEAD_BYTES
    if batch:
        yield batch


def _wait(client: Client, version: Version, *, seconds: float, report: Report) -> Version:
    end = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        states = _states_of(version)
        ready = sum(state.status == "READY" for state in states)
        text = f"{ready} of {len(states)} functions ready"
        waiting = [state for state in states if state.status == "PENDING"]
        trouble = next((state.error for state in waiting if state.error), None)
        report("prepare", text if trouble is None else f"{text}; {trouble}")
        if not waiting or time.monotonic() >= end:
            return version
        time.sleep(pause)
        pause = min(pause * 1.3, _LONGEST_PAUSE)
        version = client.get_version(version.project_name, version.version_id)


def _states_of(version: Version) -> list[FunctionState]:
    return [
        FunctionState(
            name=function.function_name,
            status=function.preparation.status
            if function.preparation
            else function.function_status,
            error=function.preparation.error if function.preparation else None,
        )
        for function in version.functions
    ]


def size_text(size: int) -> str:
    """Give a number of bytes for people."""
    if size < 1024:
        return f"{size} bytes"
    if size < 2**20:
        return f"{size / 1024:.1f} KiB"
    return f"{size / 2**20:.1f} MiB"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
