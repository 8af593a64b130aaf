"""Calling a function for each of many inputs: `map`, `starmap` and their async twins."""

from typing import Any, Generic, ParamSpec, TypedDict, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
"""What each input of a `map` is."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from typing import Literal, Protocol, Unpack

    from control_plane._call.mapping import OnProgress, Plan
    from control_plane.errors import ControlPlaneError

    T_contra = TypeVar("T_contra", contravariant=True)
    R_co = TypeVar("R_co", covariant=True)

    class TakesOne(Protocol[T_contra, R_co]):
        """A function that can be called with one argument: what others it has are optional."""

        def call(self, value: T_contra, /) -> R_co:
            """See `Function.call`."""


class MapOptions(TypedDict, total=False):
    """How `map` and its like go about it."""

    max_parallel: int
    """Calls that may be open at once, 32 if it is not given. How many of them run at once is the
    function's `max_concurrency`."""
    ordered: bool
    """True, as if it is not given: results in the order of the inputs. False: as they come."""
    progress: "bool | OnProgress"
    """True for a bar on the terminal, if `rich` is installed; or a function that is told how many
    calls have ended, and how many there are (None if that is not known)."""


class Mappable(Generic[P, R]):
    """Something that can be called for each of many inputs; the base of `Function`."""

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Function.call`."""
        raise NotImplementedError

    def _plan(self) -> "Plan":
        """Say how calls are started."""
        raise NotImplementedError

    @overload
    def map(
        self: "TakesOne[T, R]",
        inputs: "Iterable[T]",
        *,
        return_exceptions: "Literal[False]" = ...,
        **options: "Unpack[MapOptions]",
    ) -> "Iterator[R]": ...

    @overload
    def map(
        self: "TakesOne[T, R]",
        inputs: "Iterable[T]",
        *,
        return_exceptions: bool,
        **options: "Unpack[MapOptions]",
    ) -> "Iterator[R | ControlPlaneError]": ...

    def map(
        self,
        inputs: "Iterable[Any]",
        *,
        return_exceptions: bool = False,
        **options: "Unpack[MapOptions]",
    ) -> "Iterator[Any]":
        """Call it once for each input, the one argument, and give the results.

        All calls are of one version. Calls begin when the first result is asked for; inputs are
        read as they are needed. If the iteration ends early, by an error or by `close`, calls that
        have not ended are cancelled.

        Args:
            inputs: one argument each. A type checker compares them with the function's first
                parameter; the others must be optional.
            return_exceptions: give the error of a call in place of its result; False: raise the
                first one.
            **options: `max_parallel=32`, `ordered=True`, `progress=False`: see `MapOptions`.

        Raises:
            InvocationError: a call has no result; subclasses say why.
        """
        each = ((value,) for value in inputs)
        return self._map(each, _length(inputs), return_exceptions=return_exceptions, **options)

    @overload
    def starmap(
        self,
        inputs: "Iterable[Iterable[Any]]",
        *,
        return_exceptions: "Literal[False]" = ...,
        **options: "Unpack[MapOptions]",
    ) -> "Iterator[R]": ...

    @overload
    def starmap(
        self,
        inputs: "Iterable[Iterable[Any]]",
        *,
        return_exceptions: bool,
        **options: "Unpack[MapOptions]",
    ) -> "Iterator[R | ControlPlaneError]": ...

    def starmap(
        self,
        inputs: "Iterable[Iterable[Any]]",
        *,
        return_exceptions: bool = False,
        **options: "Unpack[MapOptions]",
    ) -> "Iterator[Any]":
        """As `map`, where each input holds all the arguments of a call, by position.

        A type checker does not compare them with the function's parameters; see `map` and `call`.
        """
        each = (tuple(values) for values in inputs)
        return self._map(each, _length(inputs), return_exceptions=return_exceptions, **options)

    @overload
    def map_async(
        self: "TakesOne[T, R]",
        inputs: "Iterable[T]",
        *,
        return_exceptions: "Literal[False]" = ...,
        **options: "Unpack[MapOptions]",
    ) -> "AsyncIterator[R]": ...

    @overload
    def map_async(
        self: "TakesOne[T, R]",
        inputs: "Iterable[T]",
        *,
        return_exceptions: bool,
        **options: "Unpack[MapOptions]",
    ) -> "AsyncIterator[R | ControlPlaneError]": ...

    def map_async(
        self,
        inputs: "Iterable[Any]",
        *,
        return_exceptions: bool = False,
        **options: "Unpack[MapOptions]",
    ) -> "AsyncIterator[Any]":
        """See `map`; for `async for`."""
        each = ((value,) for value in inputs)
        return self._map_async(
            each, _length(inputs), return_exceptions=return_exceptions, **options
        )

    @overload
    def starmap_async(
        self,
        inputs: "Iterable[Iterable[Any]]",
        *,
        return_exceptions: "Literal[False]" = ...,
        **options: "Unpack[MapOptions]",
    ) -> "AsyncIterator[R]": ...

    @overload
    def starmap_async(
        self,
        inputs: "Iterable[Iterable[Any]]",
        *,
        return_exceptions: bool,
        **options: "Unpack[MapOptions]",
    ) -> "AsyncIterator[R | ControlPlaneError]": ...

    def starmap_async(
        self,
        inputs: "Iterable[Iterable[Any]]",
        *,
        return_exceptions: bool = False,
        **options: "Unpack[MapOptions]",
    ) -> "AsyncIterator[Any]":
        """See `starmap`; for `async for`."""
        each = (tuple(values) for values in inputs)
        return self._map_async(
            each, _length(inputs), return_exceptions=return_exceptions, **options
        )

    def _map(
        self,
        inputs: "Iterable[tuple[Any, ...]]",
        total: int | None,
        *,
        return_exceptions: bool,
        max_parallel: int = 32,
        ordered: bool = True,
        progress: "bool | OnProgress" = False,
    ) -> "Iterator[Any]":
        # Imported here, as below: workers that call nothing need none of it.
        from control_plane._call.bar import reporting  # noqa: PLC0415 - see above
        from control_plane._call.mapping import iterate  # noqa: PLC0415 - see above

        _check(max_parallel)
        with reporting(progress) as on_progress:
            yield from iterate(
                inputs,
                self._plan(),
                total=total,
                max_parallel=max_parallel,
                ordered=ordered,
                return_exceptions=return_exceptions,
                on_progress=on_progress,
            )

    async def _map_async(
        self,
        inputs: "Iterable[tuple[Any, ...]]",
        total: int | None,
        *,
        return_exceptions: bool,
        max_parallel: int = 32,
        ordered: bool = True,
        progress: "bool | OnProgress" = False,
    ) -> "AsyncIterator[Any]":
        from contextlib import aclosing  # noqa: PLC0415 - see above

        from control_plane._call.bar import reporting  # noqa: PLC0415 - see above
        from control_plane._call.mapping import iterate_async  # noqa: PLC0415 - see above

        _check(max_parallel)
        with reporting(progress) as on_progress:
            results = iterate_async(
                inputs,
                self._plan(),
                total=total,
                max_parallel=max_parallel,
                ordered=ordered,
                return_exceptions=return_exceptions,
                on_progress=on_progress,
            )
            async with aclosing(results):
                async for result in results:
                    yield result


def _check(max_parallel: int) -> None:
    if max_parallel < 1:
        raise ValueError(f"max_parallel is {max_parallel}: it must be 1 or more")


def _length(inputs: object) -> int | None:
    try:
        return len(inputs)  # type: ignore[arg-type]  # asked in order to find out
    except TypeError:
        return None
