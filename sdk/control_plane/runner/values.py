"""How the arguments and results of a function become JSON texts and back."""

import json
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

MAX_OUTPUT_CHARACTERS = 250_000


class InputError(Exception):
    """The input is not JSON, or does not fit the function's parameters."""


class OutputError(Exception):
    """A value of the function is not JSON, or too long."""


def decode_input(text: str | None) -> "tuple[list[Any], dict[str, Any]]":
    """Give the positional and the keyword arguments that an invocation's input stands for.

    Raises:
        InputError: `text` is not JSON.
    """
    if text is None or not text.strip():
        return [], {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The input is not JSON: {error}") from None
    if value is None:
        return [], {}
    if isinstance(value, dict):
        return [], value
    if isinstance(value, list):
        return value, {}
    return [value], {}


def encode_output(value: object, *, what: str) -> str:
    """Give the JSON text of a value; `what` names the value in errors.

    Raises:
        OutputError: the value is not JSON, or its text has more than 250,000 characters.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OutputError(f"{what} is not JSON: {_first_fault(value) or error}") from None
    except RecursionError:
        raise OutputError(f"{what} is not JSON: it is nested too deeply") from None
    # No UTF-8 stands for half a surrogate pair; its JSON escape does.
    text = escape_surrogates(text)
    if len(text) > MAX_OUTPUT_CHARACTERS:
        raise OutputError(
            f"{what} is too long: {len(text):,} characters of JSON, where at most "
            f"{MAX_OUTPUT_CHARACTERS:,} can be kept"
        )
    return text


def escape_surrogates(text: str) -> str:
    r"""Write lone surrogates as `\udXXX`, so that the text can be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _refuse_constant(name: str) -> "NoReturn":
    raise ValueError(f"{name} is not a JSON value")


def _first_fault(value: object) -> str:
    try:
        return next(_faults(value, "$", ()), "")
    except RecursionError:
        return "it is nested too deeply"


def _faults(value: object, path: str, parents: tuple[int, ...]) -> "Iterator[str]":
    if value is None or isinstance(value, (str, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path} is the number {value}"
        return
    if not isinstance(value, (dict, list, tuple)):
        yield f"{path} is of the type {_name(value)}"
        return
    if id(value) in parents:
        yield f"{path} contains itself"
        return
    parents = (*parents, id(value))
    if isinstance(value, dict):
        for key, item in value.items():
            if key is not None and not isinstance(key, (str, int, float)):
                yield f"{path} has a key of the type {_name(key)}"
            yield from _faults(item, _member(path, key), parents)
    else:
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}[{index}]", parents)


def _member(path: str, key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}"
    return f"{path}[{json.dumps(key) if isinstance(key, str) else repr(key)}]"


def _name(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
