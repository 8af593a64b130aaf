"""The calls that users of existing clients make on a deployed function."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from tests.support.existing_client.connection import Connection, function_path
from tests.support.existing_client.reading import (
    Invocation,
    InvocationsListForFunction,
    Status,
    read,
)


class InvocationFailedError(Exception):
    """Every attempt has failed; the text is the last error."""


class InvocationCancelledError(Exception):
    """The invocation was cancelled."""


class InvocationTimedOutError(Exception):
    """The invocation's timeout has passed."""


class Function:
    """A function of one deployed version.

    Args:
        connection: the API.
        path: the function.
        poll_seconds: pause between two looks at an invocation.
        watch: is told every status that a look has shown.
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        *,
        poll_seconds: float,
        watch: Callable[[Status], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self.path = path
        self._poll_seconds = poll_seconds
        self._watch = watch

    @classmethod
    async def deployed(
        cls,
        connection: Connection,
        project: str,
        function: str,
        *,
        version: str = "latest",
        poll_seconds: float = 0.02,
        watch: Callable[[Status], None] = lambda _: None,
    ) -> Self:
        """Look up the version once, and stay with it."""
        info = await connection.get_version(project, version)
        assert function in {known.function_name for known in info.functions}
        path = function_path(project, info.version_id, function)
        return cls(connection, path, poll_seconds=poll_seconds, watch=watch)

    def path_of(self, invocation_id: str) -> str:
        return f"{self.path}/invocations/{invocation_id}"

    async def start(self, *args: Any, **kwargs: Any) -> str:
        """Start an invocation; returns its id. JSON stands for the client's own encoding."""
        created = await self._connection.create_invocation(
            self.path, input=json.dumps([args, kwargs])
        )
        return created.invocation_id

    async def get(self, invocation_id: str) -> Invocation:
        return read(await self._connection.get_invocation(self.path_of(invocation_id)))

    async def cancel(self, invocation_id: str) -> None:
        await self._connection.cancel_invocation(self.path_of(invocation_id))

    async def list(self, offset: str | None = None) -> InvocationsListForFunction:
        query = {} if offset is None else {"initial_offset": offset}
        return await self._connection.list_invocations(self.path, **query)

    async def await_result(self, invocation_id: str) -> Any:
        """Wait for the end; returns the decoded result.

        Raises:
            InvocationFailedError, InvocationCancelledError, InvocationTimedOutError
        """
        while True:
            seen = await self.get(invocation_id)
            self._watch(seen.status)
            if seen.status.is_final:
                return _conclude(seen)
            await asyncio.sleep(self._poll_seconds)

    async def call_remote(self, *args: Any, **kwargs: Any) -> Any:
        return await self.await_result(await self.start(*args, **kwargs))

    async def map(self, arguments: Iterable[Any]) -> Sequence[Any]:
        return await self.starmap((argument,) for argument in arguments)

    async def starmap(self, arguments: Iterable[tuple[Any, ...]]) -> Sequence[Any]:
        """Start all, then await one after the other."""
        started = [await self.start(*each) for each in arguments]
        return [await self.await_result(invocation_id) for invocation_id in started]


def _conclude(seen: Invocation) -> Any:
    match seen.status:
        case Status.SUCCEEDED:
            assert seen.result is not None
            return json.loads(seen.result)
        case Status.CANCELLED:
            raise InvocationCancelledError
        case Status.TIMED_OUT:
            raise InvocationTimedOutError
    raise InvocationFailedError(seen.error)
