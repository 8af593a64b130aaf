"""Functions as they are called on a control plane, by their name.

This module stays light, since every worker whose function is decorated imports it. What calls need
is imported when there is a call.
"""

import os
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from control_plane._call.mappable import Mappable
from control_plane._inside.context import current_or_none
from control_plane.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from control_plane._call.connection import Connection
    from control_plane._call.invocation import Invocation
    from control_plane._call.mapping import Plan
    from control_plane._http.client import BaseClient, Client
    from control_plane._http.exchange import Steps
    from control_plane.models import InvocationInfo, InvocationPath

P = ParamSpec("P")
R = TypeVar("R")
"""What an invocation has as its result."""

PROJECT_VARIABLE = "CONTROL_PLANE_PROJECT_NAME"
LATEST = "latest"


class Function(Mappable[P, R], Generic[P, R]):
    """A function of a project on a control plane, to be called there.

    `start` begins a call and gives its `Invocation`; `call` waits for the result; `map` and
    `starmap` call it for each of many inputs. Each has a twin whose name ends in `_async`, to be
    awaited in an event loop: one completes `fn.ca` and sees both, and a type checker knows both.

    Inside of a function that a control plane runs, calls to the same project are children of that
    call: cancelled with it, made with its token, and of the same version.

    Besides what they name, all of these raise what `Client` raises.
    """

    def __init__(
        self, name: str, *, project: str | None = None, version: str | None = None
    ) -> None:
        self.name = name
        """`name` in `main.py`, or `module:name`."""
        self.project = project
        """The project's name; None to take it from the surroundings."""
        self.version = version
        """A version's id, or `latest`. None: the newest, but inside a function its own."""
        self._idempotency_key: str | None = None
        self._client: Client | None = None
        self._local: Callable[..., Any] | None = None

    @staticmethod
    def from_name(project: str, function: str, version: str | None = None) -> "Function[..., Any]":
        """Name a function that is deployed, whatever it is written in.

        Args:
            project: the project's name.
            function: `name` in `main.py`, or `module:name`.
            version: a version's id, or `latest`. By default the newest at each call; but inside of
                a function of the same project, that function's own version.
        """
        return Function(function, project=project, version=version)

    def options(
        self,
        *,
        project: str | None = None,
        version: str | None = None,
        idempotency_key: str | None = None,
        client: "Client | None" = None,
    ) -> "Function[P, R]":
        """Give this function with other settings; what is None stays as it is.

        Args:
            project: the project in which it is deployed.
            version: a version's id, or `latest`.
            idempotency_key: names the call among all calls of this function in this version: a call
                with a key that was used gives the invocation that is there. `map` adds `:0`,
                `:1` and so on.
            client: the way to the server.
        """
        other: Function[P, R] = Function(
            self.name, project=project or self.project, version=version or self.version
        )
        other._idempotency_key = idempotency_key or self._idempotency_key
        other._client = client or self._client
        other._local = self._local
        return other

    def __repr__(self) -> str:
        where = f" of {self.project}" if self.project else ""
        return f"<{type(self).__name__} {self.name}{where}>"

    def start(self, *args: P.args, **kwargs: P.kwargs) -> "Invocation[R]":
        """Call it on the control plane, and go on as soon as the call is recorded.

        Raises:
            TypeError: the arguments do not fit, or are not JSON.
            ValueError: they have more than 250,000 characters as JSON.
            ConfigurationError: nothing says which project or which server is meant.
        """
        connection = self._connection()
        client = connection.client
        return self._invocation(client.perform(self._starting(client, args, kwargs)))

    async def start_async(self, *args: P.args, **kwargs: P.kwargs) -> "Invocation[R]":
        """See `start`."""
        client = self._connection().async_client
        return self._invocation(await client.perform(self._starting(client, args, kwargs)))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it on the control plane and wait for the result; see `Invocation.result`."""
        return self.start(*args, **kwargs).result()

    async def call_async(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `call`."""
        return await (await self.start_async(*args, **kwargs)).result_async()

    def invocation(self, invocation_id: str) -> "Invocation[R]":
        """Give the handle on a call that exists already.

        Unless a version is named (`options`), the call may be of any.

        Raises:
            NotFoundError: there is no such call.
            ConfigurationError: nothing says which project or which server is meant.
        """
        # Imported here, as all below: see the top.
        from control_plane._call.invocation import Invocation  # noqa: PLC0415 - see above

        connection = self._connection()
        client = connection.client
        path = client.perform(self._finding(client, invocation_id))
        return Invocation(path, connection=connection)

    async def invocation_async(self, invocation_id: str) -> "Invocation[R]":
        """See `invocation`."""
        from control_plane._call.invocation import Invocation  # noqa: PLC0415 - see the top

        connection = self._connection()
        client = connection.async_client
        path = await client.perform(self._finding(client, invocation_id))
        return Invocation(path, connection=connection)

    def _plan(self) -> "Plan":
        # Imported here: see the top.
        from control_plane._call.mapping import Plan  # noqa: PLC0415 - see above

        project, version = self._target()

        def start(
            client: "BaseClient", version_id: str, index: int, arguments: tuple[Any, ...]
        ) -> "Steps[InvocationInfo]":
            key = self._idempotency_key
            return self._creating(
                client,
                arguments,
                {},
                version=version_id,
                idempotency_key=None if key is None else f"{key}:{index}",
            )

        return Plan(
            project=project,
            version=version,
            start=start,
            connection=self._connection(),
        )

    def _connection(self) -> "Connection":
        # Imported here: see the top.
        from control_plane._call.connection import Connection  # noqa: PLC0415 - see above

        return Connection(self._client)

    def _target(self) -> tuple[str, str]:
        """Give the project and the version, which may be `latest`."""
        context = None if self._client is not None else current_or_none()
        if context is not None and self.project in (None, context.project):
            return context.project, self.version or context.version
        project = self.project or os.environ.get(PROJECT_VARIABLE)
        if not project:
            raise ConfigurationError(
                f"In which project is {self.name} deployed? Say so with "
                f".options(project=...), or set {PROJECT_VARIABLE}"
            )
        return project, self.version or LATEST

    def _finding(self, client: "BaseClient", invocation_id: str) -> "Steps[InvocationPath]":
        from control_plane._http.requests import find_invocation  # noqa: PLC0415 - see the top
        from control_plane.models import InvocationPath  # noqa: PLC0415 - see the top

        project, version = self._target()
        if version.lower() == LATEST:
            # It may be of an older version, under which alone it is found.
            version = (yield from client.exchange(find_invocation(invocation_id))).version_id
        return InvocationPath(
            project_name=project,
            version_id=version,
            function_name=self.name,
            invocation_id=invocation_id,
        )

    def _starting(
        self, client: "BaseClient", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Steps[InvocationInfo]":
        from control_plane._http.exchange import resolve_version  # noqa: PLC0415 - see the top

        project, version = self._target()
        # Under the name `latest` a repeated request could become a second call.
        version = yield from resolve_version(client.exchange, project, version)
        return (
            yield from self._creating(
                client, args, kwargs, version=version, idempotency_key=self._idempotency_key
            )
        )

    def _creating(
        self,
        client: "BaseClient",
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        version: str,
        idempotency_key: str | None,
    ) -> "Steps[InvocationInfo]":
        from control_plane._call.arguments import encode_arguments  # noqa: PLC0415 - see the top
        from control_plane._http.requests import create_invocation  # noqa: PLC0415 - see the top

        project, _ = self._target()
        context = None if self._client is not None else current_or_none()
        is_child = context is not None and context.project == project
        return client.exchange(
            create_invocation(
                project,
                self.name,
                version=version,
                input_text=encode_arguments(args, kwargs, function=self._local),
                parent=(context.function, context.invocation_id) if context and is_child else None,
                idempotency_key=idempotency_key,
            )
        )

    def _invocation(self, info: "InvocationInfo") -> "Invocation[R]":
        from control_plane._call.invocation import Invocation  # noqa: PLC0415 - see the top

        return Invocation(info.path, connection=self._connection())
