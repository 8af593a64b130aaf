"""Functions: defined with `@function`, or known by their name, and called on a control plane.

This module stays light, since every worker whose function is decorated imports it. What calls need
is imported when there is a call.
"""

import os
import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, overload

from control_plane.context import current_or_none
from control_plane.definition import function_spec
from control_plane.errors import ConfigurationError, DefinitionError
from control_plane.mappable import Mappable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator

    from control_plane.client import BaseClient, Client
    from control_plane.connection import Connection
    from control_plane.definition import Seconds
    from control_plane.exchange import Steps
    from control_plane.invocation import Invocation
    from control_plane.mapping import Plan
    from control_plane.models import InvocationInfo

P = ParamSpec("P")
R = TypeVar("R")
"""What an invocation has as its result."""
L = TypeVar("L")
"""What a plain call in this process gives: a coroutine, a generator, or just R."""
Y = TypeVar("Y")
S = TypeVar("S")
T = TypeVar("T")

PROJECT_VARIABLE = "CONTROL_PLANE_PROJECT_NAME"
LATEST = "latest"


class Function(Mappable[R], Generic[P, R]):
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

        Raises:
            ConfigurationError: nothing says which project is meant.
        """
        # Imported here, as all below: see the top.
        from control_plane.invocation import Invocation  # noqa: PLC0415 - see above
        from control_plane.models import InvocationPath  # noqa: PLC0415 - see above

        project, version = self._target()
        path = InvocationPath(
            project_name=project,
            version_id=version,
            function_name=self.name,
            invocation_id=invocation_id,
        )
        return Invocation(path, connection=self._connection())

    def _plan(self) -> "Plan":
        # Imported here: see the top.
        from control_plane.mapping import Plan  # noqa: PLC0415 - see above

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
        from control_plane.connection import Connection  # noqa: PLC0415 - see above

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

    def _starting(
        self, client: "BaseClient", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Steps[InvocationInfo]":
        from control_plane.exchange import resolve_version  # noqa: PLC0415 - see the top

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
        from control_plane.arguments import encode_arguments  # noqa: PLC0415 - see the top
        from control_plane.calls import create_invocation  # noqa: PLC0415 - see the top

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
        from control_plane.invocation import Invocation  # noqa: PLC0415 - see the top

        return Invocation(info.path, connection=self._connection())


class DefinedFunction(Function[P, R], Generic[P, R, L]):
    """A function of this program that `@function` has been put on.

    A plain call just calls it, in this process; `call`, `start` and `map` go to the control plane.
    """

    __name__: str
    __qualname__: str

    def __init__(self, local: Callable[P, L], spec: dict[str, Any]) -> None:
        super().__init__(spec["function_name"])
        self.spec = spec
        """The function's entry in `POST P/versions`: what `deploy` registers."""
        self._local = local
        # What the runner calls; also known to those that have not imported this module.
        self.__control_plane_function__ = local
        update_wrapper(self, local)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> L:
        """Call it here, without any server."""
        return self.__control_plane_function__(*args, **kwargs)

    def __reduce__(self) -> str:
        # As functions are: by its name, so that it can be handed to another process.
        return self.__qualname__


class Decorator:
    """What `@function(...)` gives: puts its settings on a function."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @overload
    def __call__(
        self, local: "Callable[P, Generator[Y, S, T]]", /
    ) -> "DefinedFunction[P, Y, Generator[Y, S, T]]": ...
    @overload
    def __call__(
        self, local: "Callable[P, Iterator[Y]]", /
    ) -> "DefinedFunction[P, Y, Iterator[Y]]": ...
    @overload
    def __call__(
        self, local: "Callable[P, AsyncGenerator[Y, S]]", /
    ) -> "DefinedFunction[P, Y, AsyncGenerator[Y, S]]": ...
    @overload
    def __call__(
        self, local: "Callable[P, AsyncIterator[Y]]", /
    ) -> "DefinedFunction[P, Y, AsyncIterator[Y]]": ...
    @overload
    def __call__(
        self, local: "Callable[P, Coroutine[Any, Any, R]]", /
    ) -> "DefinedFunction[P, R, Coroutine[Any, Any, R]]": ...
    @overload
    def __call__(self, local: Callable[P, R], /) -> "DefinedFunction[P, R, R]": ...

    def __call__(self, local: Callable[..., Any], /) -> "DefinedFunction[..., Any, Any]":
        """Define a function.

        Raises:
            DefinitionError: a setting is out of its limits, or this is no function.
        """
        return _define(local, self._settings)


@overload
def function(
    local: "Callable[P, Generator[Y, S, T]]", /
) -> "DefinedFunction[P, Y, Generator[Y, S, T]]": ...
@overload
def function(local: "Callable[P, Iterator[Y]]", /) -> "DefinedFunction[P, Y, Iterator[Y]]": ...
@overload
def function(
    local: "Callable[P, AsyncGenerator[Y, S]]", /
) -> "DefinedFunction[P, Y, AsyncGenerator[Y, S]]": ...
@overload
def function(
    local: "Callable[P, AsyncIterator[Y]]", /
) -> "DefinedFunction[P, Y, AsyncIterator[Y]]": ...
@overload
def function(
    local: "Callable[P, Coroutine[Any, Any, R]]", /
) -> "DefinedFunction[P, R, Coroutine[Any, Any, R]]": ...
@overload
def function(local: Callable[P, R], /) -> "DefinedFunction[P, R, R]": ...
@overload
def function(
    *,
    cpu: float = ...,
    memory: str = ...,
    timeout: "Seconds" = ...,
    max_retries: int = ...,
    max_concurrency: int = ...,
    retry_initial_interval: "Seconds | None" = ...,
    retry_backoff_coefficient: float | None = ...,
    retry_maximum_interval: "Seconds | None" = ...,
    image: str | None = ...,
) -> Decorator: ...


def function(
    local: Callable[..., Any] | None = None,
    /,
    *,
    cpu: float = 1,
    memory: str = "512 MiB",
    timeout: "Seconds" = 3600,
    max_retries: int = 0,
    max_concurrency: int = 10,
    retry_initial_interval: "Seconds | None" = None,
    retry_backoff_coefficient: float | None = None,
    retry_maximum_interval: "Seconds | None" = None,
    image: str | None = None,
) -> "DefinedFunction[..., Any, Any] | Decorator":
    """Make a function one that a control plane can run: `@function` or `@function(cpu=2)`.

    For plain functions, async ones, and generators of both sorts. What an invocation of a generator
    gives is the last value that it yields; `Invocation.stream` gives the others. A generator is
    known by its annotation, such as `Iterator[int]`, to a type checker only; at run time any is.

    Args:
        local: the function, where the decorator is used without arguments.
        cpu: CPU cores of each worker, above 0, up to 16.
        memory: memory of each worker, up to 64 GiB: a text such as "512 MiB" or "2 GiB".
        timeout: a timedelta, or seconds, whole ones, 1 to 86,400: from the call on, with the time
            that it waits and all its attempts.
        max_retries: further attempts after a failed one, 0 to 50.
        max_concurrency: executions of it that may run at once, 1 to 100.
        retry_initial_interval: pause before the second attempt, a timedelta or whole seconds, 1 to
            86,400. One second, if it is not given.
        retry_backoff_coefficient: each further pause is longer by this factor, 1 to 100.
        retry_maximum_interval: no pause is longer than this.
        image: the image of this function, where the project's own is not meant.

    Raises:
        DefinitionError: a value is out of its limits; the text names the argument and the limit.
    """
    settings: dict[str, Any] = {
        "cpu": cpu,
        "memory": memory,
        "timeout": timeout,
        "max_retries": max_retries,
        "max_concurrency": max_concurrency,
        "retry_initial_interval": retry_initial_interval,
        "retry_backoff_coefficient": retry_backoff_coefficient,
        "retry_maximum_interval": retry_maximum_interval,
        "image": image,
    }
    if local is not None:
        return _define(local, settings)
    # So that a mistake shows in the decorator's own line, whatever it is put on.
    function_spec("any", **settings)
    return Decorator(settings)


def _define(
    local: Any,  # noqa: ANN401 - it is looked at
    settings: dict[str, Any],
) -> "DefinedFunction[..., Any, Any]":
    if isinstance(local, DefinedFunction):
        raise DefinitionError(f"{local.name} has been defined already: there is a second @function")
    if not callable(local) or isinstance(local, type) or not hasattr(local, "__qualname__"):
        raise DefinitionError(f"@function is for functions, and this is {local!r}")
    name = _name_of(local)
    try:
        spec = function_spec(name, **settings)
    except DefinitionError as error:
        raise DefinitionError(f"{name}: {error}") from None
    return DefinedFunction(local, spec)


def _name_of(local: Callable[..., Any]) -> str:
    module, name = local.__module__, local.__qualname__
    if module == "__main__":
        module = _name_of_main()
    return name if module == "main" else f"{module}:{name}"


def _name_of_main() -> str:
    """Give the name under which others would import the program that runs."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = os.path.basename(getattr(main, "__file__", None) or "main")  # noqa: PTH119 - fast start
    return file.removesuffix(".py")
