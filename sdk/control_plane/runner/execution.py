"""Runs the user's function and finds out how it ended."""

from collections.abc import Awaitable
from contextlib import suppress
from types import AsyncGeneratorType, GeneratorType

from control_plane.errors import Interrupted
from control_plane.runner.report import NoMoreReports
from control_plane.runner.updates import Updates
from control_plane.runner.values import InputError, decode_input, encode_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from control_plane.runner.report import Report
    from control_plane.runner.sigterm import Sigterm


class Ending:
    """How a function ended.

    Attributes:
        outcome: SUCCEEDED, FAILED or ABORTED.
        output: JSON text of the return value; None for generators and where there is none.
        error: what left the function, or what was wrong with its input or output.
    """

    def __init__(
        self, outcome: str, *, output: str | None = None, error: BaseException | None = None
    ) -> None:
        self.outcome = outcome
        self.output = output
        self.error = error


def ending_of(error: BaseException) -> Ending:
    """Give the ending for an exception that has left the user's code."""
    return Ending("ABORTED" if _is_interruption(error) else "FAILED", error=error)


def execute(
    function: "Callable[..., object]",
    input_text: str | None,
    *,
    report: "Report",
    sigterm: "Sigterm",
) -> Ending:
    """Call the function with the invocation's input and report what it yields.

    Raises:
        NoMoreReports: an update could not be reported; the function was stopped.
    """
    try:
        arguments, keywords = decode_input(input_text)
        result = _call(function, arguments, keywords, sigterm=sigterm)
        if isinstance(result, GeneratorType):
            _report_values(result, report=report, sigterm=sigterm)
            output = None
        elif isinstance(result, (AsyncGeneratorType, Awaitable)):
            # Imported here since asyncio costs more time than the whole runner.
            from control_plane.runner.asynchronous import run  # noqa: PLC0415 - see above

            output = run(result, report=report, sigterm=sigterm)
        else:
            sigterm.close()
            output = encode_output(result, what="The return value")
    except NoMoreReports:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, is an end of the function
        return ending_of(error)
    return Ending("SUCCEEDED" if sigterm.arrived_at is None else "ABORTED", output=output)


def _call(
    function: "Callable[..., object]",
    arguments: "list[Any]",
    keywords: "dict[str, Any]",
    *,
    sigterm: "Sigterm",
) -> object:
    try:
        return sigterm.call(function, *arguments, **keywords)
    except TypeError as error:
        # Arguments that do not fit are refused before the function's first frame exists: below our
        # own two frames, this one and that of `Sigterm.call`, there is none.
        traceback = error.__traceback__
        if traceback is None or traceback.tb_next is None or traceback.tb_next.tb_next is not None:
            raise
        raise InputError(f"The input does not fit the function: {error}") from None


def _report_values(
    generator: "Generator[object, None, object]", *, report: "Report", sigterm: "Sigterm"
) -> None:
    count = 0
    updates = Updates(report)
    try:
        while True:
            try:
                value = sigterm.step(generator)
            except StopIteration:
                sigterm.close()
                return
            count += 1
            updates.put(encode_output(value, what=f"The yielded value number {count}"))
    finally:
        # Does nothing after the end; after a refused value it gives the function's `finally` blocks
        # their chance.
        with suppress(BaseException):
            sigterm.call(generator.close)
        updates.flush()


def _is_interruption(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(Interrupted)[1] is None
    return isinstance(error, Interrupted)
