"""The HTTP requests that this library makes, each with how its answer is read.

A `Request` says what to send and how to read the answer, and sends nothing itself. So the plain and
the async client share everything but the sending.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from control_plane.models import (
    BundleInfo,
    ChildPage,
    InvocationInfo,
    InvocationPage,
    InvocationPath,
    Json,
    LogPage,
    Project,
    Version,
    VersionSummary,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Request(Generic[T]):
    """One HTTP request, and how its answer is read."""

    method: str
    path: str
    """Percent-encoded, with the query, below the server's address."""
    read: Callable[[Json], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    """Seconds that the server may take by agreement, on top of the usual time for an answer."""
    repeatable: bool = True
    """Whether it may be sent again although an earlier try may have arrived."""
    after_conflict: "Request[T] | None" = None
    """What to ask when a repeated request is refused (409) since an earlier try did its work."""


def health() -> Request[Json]:
    """Ask whether the API answers."""
    return Request(method="GET", path="/", read=dict)


def list_projects() -> Request[tuple[Project, ...]]:
    """Ask for all projects."""
    return Request(
        method="GET",
        path="/projects",
        read=lambda content: tuple(map(Project.read, content["projects"])),
    )


def get_project(name: str) -> Request[Project]:
    """Ask for a project."""
    return Request(method="GET", path=_path(projects=name), read=Project.read)


def create_project(name: str) -> Request[Project]:
    """Register a project."""
    return Request(
        method="PUT",
        path=_path(projects=name),
        read=Project.read,
        after_conflict=get_project(name),
    )


def delete_project(name: str) -> Request[Project]:
    """Ask for a project to be deleted."""
    return Request(method="DELETE", path=_path(projects=name), read=Project.read)


def list_versions(project: str) -> Request[tuple[VersionSummary, ...]]:
    """Ask for the versions of a project."""
    return Request(
        method="GET",
        path=_path(projects=project) + "/versions",
        read=lambda content: tuple(map(VersionSummary.read, content["versions"])),
    )


def get_version(project: str, version: str = "latest") -> Request[Version]:
    """Ask for a version with its functions."""
    return Request(method="GET", path=_path(projects=project, versions=version), read=Version.read)


def create_version(project: str, definition: Mapping[str, Any]) -> Request[Version]:
    """Register a version.

    Not repeatable: there is no key that makes a second request give the same version.
    """
    return Request(
        method="POST",
        path=_path(projects=project) + "/versions",
        content=_json(definition),
        headers=_JSON,
        read=Version.read,
        repeatable=False,
    )


def announce_bundle(project: str, manifest: Mapping[str, Any]) -> Request[BundleInfo]:
    """Announce a code bundle, and ask which of its pieces the server does not have."""
    return Request(
        method="POST",
        path=_path(projects=project) + "/bundles",
        content=_json(manifest),
        headers=_JSON,
        read=BundleInfo.read,
    )


def upload_pieces(project: str, digest: str, pieces: Iterable[tuple[str, bytes]]) -> Request[Json]:
    """Upload pieces of a code bundle, each with its SHA-256: 4 MiB at most together."""
    return Request(
        method="POST",
        path=_path(projects=project, bundles=digest) + "/pieces",
        content=b"".join(b"%s %d\n%s" % (sha.encode(), len(each), each) for sha, each in pieces),
        headers={"Content-Type": "application/octet-stream"},
        read=dict,
    )


def create_invocation(
    project: str,
    function: str,
    *,
    input_text: str,
    version: str = "latest",
    parent: tuple[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Request[InvocationInfo]:
    """Call a function.

    Without a key one is made up, so that this very `Request` may be sent again and again.
    """
    definition: Json = {"input": input_text}
    if parent is not None:
        definition["parent_invocation"] = {"function_name": parent[0], "invocation_id": parent[1]}
    return Request(
        method="POST",
        path=_path(projects=project, versions=version, functions=function) + "/invocations",
        content=_json(definition),
        headers={**_JSON, "Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        read=InvocationInfo.read,
    )


def get_invocation(path: InvocationPath, *, wait: float = 0.0) -> Request[InvocationInfo]:
    """Ask for an invocation; with `wait`, up to 60 seconds, as soon as it has ended."""
    query = "?" + urlencode({"wait": f"{wait:.3f}"}) if wait > 0 else ""
    return Request(
        method="GET", path=_invocation(path) + query, read=InvocationInfo.read, wait=max(0.0, wait)
    )


def find_invocation(invocation_id: str, *, wait: float = 0.0) -> Request[InvocationInfo]:
    """Ask for an invocation by its id alone; otherwise as `get_invocation`."""
    query = "?" + urlencode({"wait": f"{wait:.3f}"}) if wait > 0 else ""
    return Request(
        method="GET",
        path=_path(invocations=invocation_id) + query,
        read=InvocationInfo.read,
        wait=max(0.0, wait),
    )


def list_children(
    invocation_id: str, *, offset: str | None = None, max_results: int | None = None
) -> Request[ChildPage]:
    """Ask for a page of the invocations that an invocation has made."""
    query = _query(max_results=max_results, initial_offset=offset)
    return Request(
        method="GET",
        path=_path(invocations=invocation_id) + "/children" + query,
        read=ChildPage.read,
    )


def cancel_invocation(path: InvocationPath) -> Request[InvocationInfo]:
    """Ask for an invocation to be cancelled."""
    return Request(
        method="PUT",
        path=_invocation(path) + "/cancel",
        read=InvocationInfo.read,
        after_conflict=get_invocation(path),
    )


def list_invocations(
    project: str,
    function: str,
    *,
    version: str = "latest",
    status: str | None = None,
    parent: tuple[str, str] | None = None,
    offset: str | None = None,
    max_results: int | None = None,
) -> Request[InvocationPage]:
    """Ask for a page of a function's invocations."""
    query = _query(
        max_results=max_results,
        initial_offset=offset,
        status=status,
        parent_function_name=None if parent is None else parent[0],
        parent_invocation_id=None if parent is None else parent[1],
    )
    return Request(
        method="GET",
        path=_path(projects=project, versions=version, functions=function) + "/invocations" + query,
        read=InvocationPage.read,
    )


def get_logs(
    path: InvocationPath,
    execution_id: str,
    *,
    offset: str | None = None,
    max_lines: int | None = None,
    since: float | None = None,
    tail: int | None = None,
) -> Request[LogPage]:
    """Ask for a page of an execution's output."""
    query = _query(initial_offset=offset, max_lines=max_lines, since=since, tail=tail)
    return Request(
        method="GET",
        path=f"{_invocation(path)}/executions/{quote(execution_id, safe='')}/logs{query}",
        read=LogPage.read,
    )


def open_temporal_ui(invocation_id: str | None) -> Request[str]:
    """Ask for an address that opens Temporal's web UI in a browser, at a call or at all of them."""
    return Request(
        method="POST",
        path="/temporal_ui_links",
        content=_json({"invocation_id": invocation_id}),
        headers=_JSON,
        read=lambda content: str(content["url"]),
    )


_JSON = {"Content-Type": "application/json"}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _path(**names: str) -> str:
    return "".join(f"/{kind}/{quote(name, safe='')}" for kind, name in names.items())


def _invocation(path: InvocationPath) -> str:
    return _path(
        projects=path.project_name,
        versions=path.version_id,
        functions=path.function_name,
        invocations=path.invocation_id,
    )


def _query(**parameters: str | float | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return "?" + urlencode(given) if given else ""
