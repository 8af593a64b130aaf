"""The HTTP API as methods: `Client`; `AsyncClient` has the same methods, to be awaited.

    with Client() as client:
        for project in client.list_projects():
            print(project.project_name)

Requests are repeated where that is safe, see `control_plane._http.exchange`.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

from control_plane._http import requests
from control_plane._http.exchange import (
    Give,
    Reply,
    RetryLimit,
    Send,
    Step,
    Steps,
    Stream,
    exchange,
)
from control_plane._http.follower import Event, Follower, Output, texts, wait_for_end
from control_plane._http.pages import all_invocations
from control_plane._http.profiles import Profile, find_server
from control_plane._http.requests import Request
from control_plane._http.transports import make_transport
from control_plane.models import (
    ChildPage,
    InvocationInfo,
    InvocationPage,
    InvocationPath,
    InvocationSummary,
    Json,
    LogPage,
    Project,
    Version,
    VersionSummary,
)

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
PATIENCE_SECONDS = 60.0


class BaseClient:
    """What both clients know about their server."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        profile: str | None = None,
        patience: float,
    ) -> None:
        self.server: Profile = find_server(url, key, profile=profile)
        """Address and key."""
        self._retry_limit = RetryLimit(patience)

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return self.server.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def exchange(self, request: Request[T]) -> Steps[T]:
        """Give the steps of one request, as a part of more."""
        return exchange(request, server=self.url, limit=self._retry_limit)

    def waiting_for_end(self, path: InvocationPath, timeout: float | None) -> Steps[InvocationInfo]:
        """Give the steps of waiting until an invocation has ended."""
        return wait_for_end(self.exchange, path, timeout=timeout)

    def output_of(self, path: InvocationPath, execution_id: str, *, follow: bool) -> Stream[Event]:
        """Give the steps of reading an execution's output; with `follow`, until its end."""
        output = Output(execution_id=execution_id)
        return Follower(self.exchange, path, output=output).events(to_end=follow)


class Client(BaseClient):
    """A connection to a control plane, for any number of threads.

    Args:
        url: the server's address. By default from the environment (`CONTROL_PLANE_API_URL`), else
            from a profile that `control-plane login` has written.
        key: by default from the environment (`CONTROL_PLANE_API_KEY`), else from the profile.
        profile: a profile's name; goes before the environment.
        timeout: seconds that one try may take.
        patience: seconds during which a request is repeated while the server cannot be reached or
            says that it is not available. Until its first answer a server gets five at most.

    Raises:
        ConfigurationError: nothing says which server is meant, or which key it wants.

    All methods raise:
        ServerConnectionError: the server does not answer.
        AuthenticationError: the key is wrong, or not good for this.
        NotFoundError: something that is named does not exist.
        ServerUnavailableError: the server cannot do it at the moment.
        ApiError: it refuses for another reason; subclasses say which.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(url, key, profile=profile, patience=patience)
        self._transport = make_transport(self.url, key=self.server.key, timeout=timeout)

    def close(self) -> None:
        """End the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, request: Request[T]) -> T:
        """Send a request that has no method here."""
        return self.perform(self.exchange(request))

    def perform(self, steps: Steps[T]) -> T:
        """Do what an exchange of one or more requests asks for; gives its result."""
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = self._do(step)

    def iterate(self, stream: Stream[T]) -> Iterator[T]:
        """Do what a stream of results asks for; gives the results as they come."""
        reply: Reply = None
        while True:
            try:
                step = stream.send(reply)
            except StopIteration:
                return
            if isinstance(step, Give):
                reply = None
                yield step.value
            else:
                reply = self._do(step)

    def _do(self, step: Step) -> Reply:
        if isinstance(step, Send):
            return self._transport.send(step.request)
        time.sleep(step.seconds)
        return None

    def health(self) -> Json:
        """Ask whether the API answers; it does not look at the key."""
        return self.run(requests.health())

    def list_projects(self) -> tuple[Project, ...]:
        """Give all projects, newest first."""
        return self.run(requests.list_projects())

    def get_project(self, name: str) -> Project:
        """Give a project."""
        return self.run(requests.get_project(name))

    def create_project(self, name: str) -> Project:
        """Register a project.

        Raises:
            ConflictError: the name is taken.
        """
        return self.run(requests.create_project(name))

    def delete_project(self, name: str) -> Project:
        """Ask for a project to be deleted with everything in it; returns at once."""
        return self.run(requests.delete_project(name))

    def list_versions(self, project: str) -> tuple[VersionSummary, ...]:
        """Give the versions of a project, newest first."""
        return self.run(requests.list_versions(project))

    def get_version(self, project: str, version: str = "latest") -> Version:
        """Give a version with its functions."""
        return self.run(requests.get_version(project, version))

    def create_version(self, project: str, definition: Mapping[str, Any]) -> Version:
        """Register a version.

        Is not repeated if the connection is lost before the answer has come.

        Args:
            project: its name.
            definition: the body of `POST P/versions`: `default_docker_image` and `functions`.
        """
        return self.run(requests.create_version(project, definition))

    def create_invocation(
        self,
        project: str,
        function: str,
        *,
        input_text: str,
        version: str = "latest",
        parent: tuple[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> InvocationInfo:
        """Call a function; returns as soon as the call is recorded.

        Args:
            project: its name.
            function: its name.
            input_text: handed to the worker as it is: JSON, for Python functions.
            version: its id, or `latest`. With an idempotency key name the version: under `latest`
                a repeated call after a new version is a new call.
            parent: function name and id of the invocation that makes this one.
            idempotency_key: names this call among all of the function. The same call with the same
                key gives the same invocation. One is made up if none is given.

        Raises:
            BadRequestError: the key was used for another input, or the parent does not exist.
        """
        return self.run(
            requests.create_invocation(
                project,
                function,
                version=version,
                input_text=input_text,
                parent=parent,
                idempotency_key=idempotency_key,
            )
        )

    def get_invocation(self, path: InvocationPath, *, wait: float = 0.0) -> InvocationInfo:
        """Give an invocation; with `wait` (60 seconds at most), as soon as it has ended."""
        return self.run(requests.get_invocation(path, wait=wait))

    def find_invocation(self, invocation_id: str, *, wait: float = 0.0) -> InvocationInfo:
        """Give an invocation by its id alone; `wait` as for `get_invocation`."""
        return self.run(requests.find_invocation(invocation_id, wait=wait))

    def list_children(
        self, invocation_id: str, *, offset: str | None = None, max_results: int | None = None
    ) -> ChildPage:
        """Give a page of the invocations that an invocation has made, newest first.

        Args:
            invocation_id: the one that has made them, of whatever functions they are.
            offset: `next_offset` of a page.
            max_results: 50 if absent or larger.
        """
        return self.run(
            requests.list_children(invocation_id, offset=offset, max_results=max_results)
        )

    def wait_for_invocation(
        self, path: InvocationPath, timeout: float | None = None
    ) -> InvocationInfo:
        """Wait until an invocation has ended, however it ends.

        Raises:
            WaitTimeoutError: it has not ended within `timeout` seconds.
        """
        return self.perform(self.waiting_for_end(path, timeout))

    def cancel_invocation(self, path: InvocationPath) -> InvocationInfo:
        """Ask for an invocation, and all that it has called, to be cancelled; returns at once.

        Raises:
            ConflictError: it has ended already.
        """
        return self.run(requests.cancel_invocation(path))

    def list_invocations(
        self,
        project: str,
        function: str,
        *,
        version: str = "latest",
        status: str | None = None,
        parent: tuple[str, str] | None = None,
        offset: str | None = None,
        max_results: int | None = None,
    ) -> InvocationPage:
        """Give a page of a function's invocations, newest first.

        Args:
            project: its name.
            function: its name.
            version: its id, or `latest`.
            status: only RUNNING ones, or only TERMINATED ones.
            parent: only children of this invocation, named by its function's name and its id.
            offset: `next_offset` of a page.
            max_results: 50 if absent or larger.
        """
        return self.run(
            requests.list_invocations(
                project,
                function,
                version=version,
                status=status,
                parent=parent,
                offset=offset,
                max_results=max_results,
            )
        )

    def iterate_invocations(
        self,
        project: str,
        function: str,
        *,
        version: str = "latest",
        status: str | None = None,
        parent: tuple[str, str] | None = None,
    ) -> Iterator[InvocationSummary]:
        """Give all of a function's invocations, newest first, asking for pages as need be."""
        return self.iterate(
            all_invocations(
                self.exchange, project, function, version=version, status=status, parent=parent
            )
        )

    def get_logs(
        self,
        path: InvocationPath,
        execution_id: str,
        *,
        offset: str | None = None,
        max_lines: int | None = None,
        since: float | None = None,
        tail: int | None = None,
    ) -> LogPage:
        """Give a page of an execution's output.

        Args:
            path: the invocation.
            execution_id: its execution.
            offset: `next_offset` of a page.
            max_lines: 250 if absent or larger.
            since: epoch seconds: leave out what was copied from the worker before.
            tail: begin so many lines before the present end.
        """
        return self.run(
            requests.get_logs(
                path, execution_id, offset=offset, max_lines=max_lines, since=since, tail=tail
            )
        )

    def iterate_logs(
        self, path: InvocationPath, execution_id: str, *, follow: bool = False
    ) -> Iterator[str]:
        """Give the lines of an execution's output; with `follow`, also those to come."""
        return texts(self.iterate(self.output_of(path, execution_id, follow=follow)))
