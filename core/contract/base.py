"""What all contract models share: the base class, and text and number types with their limits.

Limits raise our own messages (`<field> must not exceed 16`), because existing clients and tests
know those texts; they are repeated for the OpenAPI document in `json_schema_extra`.
"""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

MAX_TEXT_LENGTH: Final = 250_000
"""Characters of an input or an output."""
MAX_ERROR_LENGTH: Final = 16_384
"""Characters of an error message."""
MAX_PROGRESS_LENGTH: Final = 16_384
"""Characters of a progress report, written as compact JSON."""
MAX_PROGRESS_DEPTH: Final = 32
"""Objects and arrays within one another in a progress report, itself included."""
NAME_LENGTH_LIMIT: Final = 1024
"""Function names and images must be shorter than this."""
POOL_PATTERN: Final = "[a-z0-9][a-z0-9._-]{0,62}"
"""What the name of a pool looks like."""

Number = TypeVar("Number", int, float)


class ContractModel(BaseModel):
    """Base of every request and response body. Unknown keys of a request are ignored."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


def _subject(info: ValidationInfo) -> str:
    return info.field_name or "the value"


def storable(value: str, info: ValidationInfo) -> str:
    """Refuse what Postgres cannot store as text: NUL characters and halves of surrogate pairs.

    Raises:
        ValueError: `value` contains one.
    """
    if "\x00" in value:
        raise ValueError(f"{_subject(info)} must not contain NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{_subject(info)} must not contain lone surrogates") from None
    return value


def positive(value: Number, info: ValidationInfo) -> Number:
    """Refuse zero and less.

    Raises:
        ValueError: `value` is not positive.
    """
    if value <= 0:
        raise ValueError(f"{_subject(info)} must be positive")
    return value


def non_negative(value: Number, info: ValidationInfo) -> Number:
    """Refuse less than zero.

    Raises:
        ValueError: `value` is negative.
    """
    if value < 0:
        raise ValueError(f"{_subject(info)} must be non-negative")
    return value


def at_most(limit: int) -> Callable[[Number, ValidationInfo], Number]:
    """Make a validator that refuses more than `limit`."""

    def check(value: Number, info: ValidationInfo) -> Number:
        if value > limit:
            raise ValueError(f"{_subject(info)} must not exceed {limit}")
        return value

    return check


def at_least(limit: int) -> Callable[[Number, ValidationInfo], Number]:
    """Make a validator that refuses less than `limit`."""

    def check(value: Number, info: ValidationInfo) -> Number:
        if value < limit:
            raise ValueError(f"{_subject(info)} must not be less than {limit}")
        return value

    return check


def no_longer_than(limit: int, *, named: int | None = None) -> Callable[[str, ValidationInfo], str]:
    """Make a validator that refuses texts of more than `limit` characters.

    Args:
        limit: the longest text that is accepted.
        named: the number that the message names, where the contract names another one.
    """

    def check(value: str, info: ValidationInfo) -> str:
        if len(value) > limit:
            raise ValueError(f"{_subject(info)} cannot exceed {named or limit} characters")
        return value

    return check


def pool_name(value: str, info: ValidationInfo) -> str:
    """Refuse what cannot be the name of a pool: pools name task queues, and are typed in a shell.

    Raises:
        ValueError: `value` is not 1 to 63 lower-case letters, digits, `.`, `_` and `-`, beginning
            with a letter or digit.
    """
    if re.fullmatch(POOL_PATTERN, value) is None:
        raise ValueError(
            f"{_subject(info)} must be 1 to 63 lower-case letters, digits, '.', '_' or '-',"
            " and begin with a letter or digit"
        )
    return value


def _check_parts(value: object, info: ValidationInfo, *, depth: int = 1) -> None:
    if isinstance(value, str):
        storable(value, info)
    if not isinstance(value, (dict, list)):
        return
    if depth > MAX_PROGRESS_DEPTH:
        raise ValueError(f"{_subject(info)} cannot exceed {MAX_PROGRESS_DEPTH} levels of nesting")
    if isinstance(value, dict):
        for key in value:
            storable(key, info)
    for part in value.values() if isinstance(value, dict) else value:
        _check_parts(part, info, depth=depth + 1)


def storable_object(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Refuse an object that is too long or too deep, or holds what no JSON text should.

    Raises:
        ValueError: it is one of these.
    """
    _check_parts(value, info)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise ValueError(f"{_subject(info)} must not contain infinite numbers") from None
    if len(text) > MAX_PROGRESS_LENGTH:
        raise ValueError(f"{_subject(info)} cannot exceed {MAX_PROGRESS_LENGTH} characters")
    return value


EpochSeconds = int
"""A time as whole seconds since 1970-01-01 UTC, rounded down."""

NO_NUL: Final = r"^[^\x00]*$"
"""What `storable` refuses, as far as a pattern can tell: other texts are no JSON that travels."""

CleanText = Annotated[str, AfterValidator(storable), Field(json_schema_extra={"pattern": NO_NUL})]
"""A text that Postgres can store."""

NameText = Annotated[
    CleanText,
    AfterValidator(no_longer_than(NAME_LENGTH_LIMIT - 1, named=NAME_LENGTH_LIMIT)),
    Field(json_schema_extra={"maxLength": NAME_LENGTH_LIMIT - 1}),
]
"""A function name or an image."""

ValueText = Annotated[
    CleanText,
    AfterValidator(no_longer_than(MAX_TEXT_LENGTH)),
    Field(json_schema_extra={"maxLength": MAX_TEXT_LENGTH}),
]
"""An input or an output: opaque to the server."""

ErrorText = Annotated[
    CleanText,
    AfterValidator(no_longer_than(MAX_ERROR_LENGTH)),
    Field(json_schema_extra={"maxLength": MAX_ERROR_LENGTH}),
]
"""An error message of a user's function."""

ProgressObject = Annotated[dict[str, Any], AfterValidator(storable_object)]
"""What a function says about its progress: a JSON object whose fields are the function's choice."""

PoolText = Annotated[
    str,
    AfterValidator(pool_name),
    Field(json_schema_extra={"pattern": f"^{POOL_PATTERN}$"}),
]
