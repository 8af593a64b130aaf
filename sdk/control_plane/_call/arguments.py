"""How the arguments of a call become its input, and its output becomes the result."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_INPUT_CHARACTERS = 250_000


def encode_arguments(
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    *,
    function: Callable[..., object] | None,
) -> str:
    """Give the JSON text that stands for arguments: an array, or an object if they have names.

    Args:
        arguments: by position.
        keywords: by name.
        function: whose parameters give names to arguments by position where there are both; None
            if it is not known.

    Raises:
        TypeError: they do not fit the function, or are not JSON; or there are both sorts of them
            for a function whose parameters are not known.
        ValueError: the text is longer than 250,000 characters.
    """
    value: object = list(arguments)
    if function is not None:
        # Imported here: it takes long, and the module is there in every worker.
        import inspect  # noqa: PLC0415 - see above

        signature = inspect.signature(function)
        bound = signature.bind(*arguments, **keywords)
        if keywords:
            value = {**_named(signature, bound.args), **bound.kwargs}
    elif keywords:
        if arguments:
            raise TypeError(
                "The parameters of a function that is known by its name only are not known: give "
                "all arguments by position, or all by name"
            )
        value = dict(keywords)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"The arguments are not JSON: {error}") from None
    check_length(text)
    return text


def check_length(text: str) -> None:
    """Make sure that the API takes a text as an input.

    Raises:
        ValueError: it is longer than 250,000 characters.
    """
    if len(text) > MAX_INPUT_CHARACTERS:
        raise ValueError(
            f"The input has {len(text):,} characters as JSON, and the limit is "
            f"{MAX_INPUT_CHARACTERS:,}. Put the data where the function can read it, and pass its "
            "place"
        )


def decode_output(text: str | None) -> Any:  # noqa: ANN401 - whatever the function gave
    """Give the value of an output: None where there is none, the text itself if it is not JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _named(signature: Any, arguments: Sequence[Any]) -> dict[str, Any]:  # noqa: ANN401 - inspect's
    names: dict[str, Any] = {}
    parameters = list(signature.parameters.values())
    for parameter, argument in zip(parameters, arguments, strict=False):
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(
                f"The argument for {parameter} can be given by position only, and others by name: "
                "one input cannot hold both"
            )
        names[parameter.name] = argument
    return names
