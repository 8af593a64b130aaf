"""Calling a function right here, without a server: for trying out and for tests."""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import AsyncGeneratorType, GeneratorType
from typing import Any


def call_local(function: Callable[..., object], /, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - what the function gives
    """Call a function in this process and give what an invocation of it would have as its result.

    Nothing is encoded and nothing is reported. Async functions are run to their end.

    Args:
        function: plain, async, or a generator of either sort.
        *args: as the function takes them.
        **kwargs: as the function takes them.

    Returns:
        The return value; of a generator the last value it yields, None if it yields none. As in a
        worker, what a generator returns is ignored.

    Raises:
        BaseException: what leaves the function.
    """
    result = function(*args, **kwargs)
    if isinstance(result, GeneratorType):
        return _last(result)
    if isinstance(result, (AsyncGeneratorType, Awaitable)):
        # Imported here: asyncio takes longer than everything else that a worker imports.
        import asyncio  # noqa: PLC0415 - see above

        awaitable = _last_awaited(result) if isinstance(result, AsyncGeneratorType) else result
        return asyncio.run(_await(awaitable))
    return result


def _last(values: Generator[object, None, object]) -> object:
    last = deque(values, maxlen=1)
    return last[0] if last else None


async def _last_awaited(values: AsyncGenerator[object, None]) -> object:
    last: object = None
    async for value in values:
        last = value
    return last


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable
