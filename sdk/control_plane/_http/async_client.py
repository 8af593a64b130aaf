"""`AsyncClient`: the HTTP API as methods to be awaited; see `control_plane._http.client`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self, TypeVar

from control_plane._http import requests
from control_plane._http.client import PATIENCE_SECONDS, TIMEOUT_SECONDS, BaseClient
from control_plane._http.exchange import Reply, Send, Steps
from control_plane._http.pages import InvocationPages, LogPages
from control_plane._http.requests import Call
from control_plane._http.transports import make_async_transport
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


class AsyncClient(BaseClient):
    """As `Client`, for one event loop: the same methods, to be awaited.

    Arguments and errors are those of `Client`.
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
        self._transport = make_async_transport(self.url, key=self.server.key, timeout=timeout)

    async def close(self) -> None:
        """End the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, call: Call[T]) -> T:
        """Send a request that has no method here."""
        return await self.perform(self.exchange(call))

    async def perform(self, steps: Steps[T]) -> T:
        """See `Client.perform`."""
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Send):
                reply = await self._transport.send(step.call)
            else:
                reply = None
                await asyncio.sleep(step.seconds)

    async def health(self) -> Json:
        """See `Client.health`."""
        return await self.run(requests.get_health())

    async def list_projects(self) -> tuple[Project, ...]:
        """See `Client.list_projects`."""
        return await self.run(requests.list_projects())

    async def get_project(self, name: str) -> Project:
        """See `Client.get_project`."""
        return await self.run(requests.get_project(name))

    async def create_project(self, name: str) -> Project:
        """See `Client.create_project`."""
        return await self.run(requests.create_project(name))

    async def delete_project(self, name: str) -> Project:
        """See `Client.delete_project`."""
        return await self.run(requests.delete_project(name))

    async def list_versions(self, project: str) -> tuple[VersionSummary, ...]:
        """See `Client.list_versions`."""
        return await self.run(requests.list_versions(project))

    async def get_version(self, project: str, version: str = "latest") -> Version:
        """See `Client.get_version`."""
        return await self.run(requests.get_version(project, version))

    async def create_version(self, project: str, definition: Mapping[str, Any]) -> Version:
        """See `Client.create_version`."""
        return await self.run(requests.create_version(project, definition))

    async def create_invocation(
        self,
        project: str,
        function: str,
        *,
        input_text: str,
        version: str = "latest",
        parent: tuple[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> InvocationInfo:
        """See `Client.create_invocation`."""
        return await self.run(
            requests.create_invocation(
                project,
                function,
                version=version,
                input_text=input_text,
                parent=parent,
                idempotency_key=idempotency_key,
            )
        )

    async def get_invocation(self, path: InvocationPath, *, wait: float = 0.0) -> InvocationInfo:
        """See `Client.get_invocation`."""
        return await self.run(requests.get_invocation(path, wait=wait))

    async def find_invocation(self, invocation_id: str, *, wait: float = 0.0) -> InvocationInfo:
        """See `Client.find_invocation`."""
        return await self.run(requests.find_invocation(invocation_id, wait=wait))

    async def list_children(
        self, invocation_id: str, *, offset: str | None = None, max_results: int | None = None
    ) -> ChildPage:
        """See `Client.list_children`."""
        return await self.run(
            requests.list_children(invocation_id, offset=offset, max_results=max_results)
        )

    async def wait_for_invocation(
        self, path: InvocationPath, timeout: float | None = None
    ) -> InvocationInfo:
        """See `Client.wait_for_invocation`."""
        return await self.perform(self.waiting_for_end(path, timeout))

    async def cancel_invocation(self, path: InvocationPath) -> InvocationInfo:
        """See `Client.cancel_invocation`."""
        return await self.run(requests.cancel_invocation(path))

    async def list_invocations(
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
        """See `Client.list_invocations`."""
        return await self.run(
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

    async def iterate_invocations(
        self,
        project: str,
        function: str,
        *,
        version: str = "latest",
        status: str | None = None,
        parent: tuple[str, str] | None = None,
    ) -> AsyncIterator[InvocationSummary]:
        """See `Client.iterate_invocations`."""
        pages = InvocationPages(
            self.exchange, project, function, version=version, status=status, parent=parent
        )
        while (found := await self.perform(pages.next())) is not None:
            for each in found:
                yield each

    async def get_logs(
        self,
        path: InvocationPath,
        execution_id: str,
        *,
        offset: str | None = None,
        max_lines: int | None = None,
        since: float | None = None,
        tail: int | None = None,
    ) -> LogPage:
        """See `Client.get_logs`."""
        return await self.run(
            requests.get_logs(
                path, execution_id, offset=offset, max_lines=max_lines, since=since, tail=tail
            )
        )

    async def iterate_logs(
        self, path: InvocationPath, execution_id: str, *, follow: bool = False
    ) -> AsyncIterator[str]:
        """See `Client.iterate_logs`."""
        pages = LogPages(self.exchange, path, execution_id, follow=follow)
        while (lines := await self.perform(pages.next())) is not None:
            for line in lines:
                yield line
