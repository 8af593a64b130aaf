"""`@function`: makes a function one that a control plane can run.

This module stays light, since every worker whose function is decorated imports it.
"""

import os
import sys
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, overload

from control_plane._call.functions import Function
from control_plane._define.definition import function_spec
from control_plane.errors import DefinitionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Coroutine,
        Generator,
        Iterator,
    )

    from control_plane._define.definition import Seconds

P = ParamSpec("P")
R = TypeVar("R")
"""What an invocation has as its result."""
L = TypeVar("L")
"""What a plain call in this process gives: a coroutine, a generator, or just R."""
Y = TypeVar("Y")
S = TypeVar("S")
T = TypeVar("T")


class DefinedFunction(Function[P, R], Generic[P, R, L]):
    """A function of this program that `@function` has been put on.

    A plain call just calls it, in this process; `call`, `start` and `map` go to the control plane.
    """

    __name__: str
    __qualname__: str

    def __init__(self, local: "Callable[P, L]", spec: dict[str, Any]) -> None:
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
    def __call__(self, local: "Callable[P, R]", /) -> "DefinedFunction[P, R, R]": ...

    def __call__(self, local: "Callable[..., Any]", /) -> "DefinedFunction[..., Any, Any]":
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
def function(local: "Callable[P, R]", /) -> "DefinedFunction[P, R, R]": ...
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
    local: "Callable[..., Any] | None" = None,
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


def _name_of(local: "Callable[..., Any]") -> str:
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
