"""`AsyncClient`: the HTTP API as methods to be awaited; see `control_plane._http.client`."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, get_args

from control_plane._http import requests
from control_plane._http.client import PATIENCE_SECONDS, TIMEOUT_SECONDS, BaseClient
from control_plane._http.exchange import Give, Reply, Send, Step, Steps, Stream
from control_plane._http.follower import Line
from control_plane._http.pages import all_invocations
from control_plane._http.requests import Request
from control_plane._http.transports import make_async_transport
from control_plane.models import InvocationInfo, InvocationPath, InvocationSummary

P = ParamSpec("P")
T = TypeVar("T")


def _sends(
    make: Callable[P, Request[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """Make the method that sends a request and gives what its answer is read as."""

    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(make(*args, **kwargs))

    method.__name__ = make.__name__
    method.__qualname__ = f"AsyncClient.{make.__name__}"
    method.__doc__ = f"See `Client.{make.__name__}`."
    # For `help` and the like, which would see the `*args` and `**kwargs` from above.
    taken = inspect.signature(make)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = taken.replace(  # type: ignore[attr-defined]  # inspect looks for it
        parameters=[own, *taken.parameters.values()],
        return_annotation=get_args(taken.return_annotation)[0],
    )
    return method


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

    async def run(self, request: Request[T]) -> T:
        """Send a request that has no method here."""
        return await self.perform(self.exchange(request))

    async def perform(self, steps: Steps[T]) -> T:
        """See `Client.perform`."""
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = await self._do(step)

    async def iterate(self, stream: Stream[T]) -> AsyncIterator[T]:
        """See `Client.iterate`."""
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
                reply = await self._do(step)

    async def _do(self, step: Step) -> Reply:
        if isinstance(step, Send):
            return await self._transport.send(step.request)
        await asyncio.sleep(step.seconds)
        return None

    health = _sends(requests.health)
    list_projects = _sends(requests.list_projects)
    get_project = _sends(requests.get_project)
    create_project = _sends(requests.create_project)
    delete_project = _sends(requests.delete_project)
    list_versions = _sends(requests.list_versions)
    get_version = _sends(requests.get_version)
    create_version = _sends(requests.create_version)
    create_invocation = _sends(requests.create_invocation)
    get_invocation = _sends(requests.get_invocation)
    find_invocation = _sends(requests.find_invocation)
    list_children = _sends(requests.list_children)
    cancel_invocation = _sends(requests.cancel_invocation)
    list_invocations = _sends(requests.list_invocations)
    get_logs = _sends(requests.get_logs)

    async def wait_for_invocation(
        self, path: InvocationPath, timeout: float | None = None
    ) -> InvocationInfo:
        """See `Client.wait_for_invocation`."""
        return await self.perform(self.waiting_for_end(path, timeout))

    def iterate_invocations(
        self,
        project: str,
        function: str,
        *,
        version: str = "latest",
        status: str | None = None,
        parent: tuple[str, str] | None = None,
    ) -> AsyncIterator[InvocationSummary]:
        """See `Client.iterate_invocations`."""
        return self.iterate(
            all_invocations(
                self.exchange, project, function, version=version, status=status, parent=parent
            )
        )

    async def iterate_logs(
        self, path: InvocationPath, execution_id: str, *, follow: bool = False
    ) -> AsyncIterator[str]:
        """See `Client.iterate_logs`."""
        async for event in self.iterate(self.output_of(path, execution_id, follow=follow)):
            if isinstance(event, Line):
                yield event.text
