"""What is declared about a function, in the terms of the API, with its limits.

The limits are the server's (docs/api.md). They are judged here too, so that a mistake shows where
it was made.
"""

import math

from control_plane.errors import DefinitionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    Seconds = timedelta | float

MAX_CPUS = 16
MAX_MEMORY_GIB = 64
MAX_CONCURRENCY = 100
MAX_RETRIES = 50
MAX_SECONDS = 86_400
MAX_COEFFICIENT = 100
MAX_NAME_CHARACTERS = 1023

_BYTES = {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


def function_spec(
    name: str,
    *,
    cpu: float,
    memory: str,
    timeout: "Seconds",
    max_retries: int,
    max_concurrency: int,
    retry_initial_interval: "Seconds | None" = None,
    retry_backoff_coefficient: float | None = None,
    retry_maximum_interval: "Seconds | None" = None,
    image: str | None = None,
) -> "dict[str, Any]":
    """Give the entry of a function in `POST P/versions`.

    Raises:
        DefinitionError: something is out of its limits; the text names the argument and the limit.
    """
    spec: dict[str, Any] = {
        "function_name": _text("name", name),
        "resource_spec": {
            "virtual_cpus": _number("cpu", cpu, above=0, most=MAX_CPUS),
            "memory_gbs": _memory(memory),
            "max_concurrency": _whole("max_concurrency", max_concurrency, 1, MAX_CONCURRENCY),
        },
        "execution_spec": {
            "max_retries": _whole("max_retries", max_retries, 0, MAX_RETRIES),
            "timeout_seconds": _seconds("timeout", timeout),
        },
    }
    if image is not None:
        spec["docker_image_override"] = _text("image", image)
    retry: dict[str, Any] = {}
    if retry_initial_interval is not None:
        retry["initial_interval_seconds"] = _seconds(
            "retry_initial_interval", retry_initial_interval
        )
    if retry_backoff_coefficient is not None:
        retry["backoff_coefficient"] = _number(
            "retry_backoff_coefficient", retry_backoff_coefficient, least=1, most=MAX_COEFFICIENT
        )
    if retry_maximum_interval is not None:
        longest = _seconds("retry_maximum_interval", retry_maximum_interval)
        first = retry.get("initial_interval_seconds", 1)
        if longest < first:
            raise DefinitionError(
                f"retry_maximum_interval is {longest} seconds: it must not be less than "
                f"retry_initial_interval, {first} seconds"
            )
        retry["maximum_interval_seconds"] = longest
    if retry:
        spec["retry_spec"] = retry
    return spec


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARACTERS:
        raise DefinitionError(
            f"{argument} must be a text of 1 to {MAX_NAME_CHARACTERS:,} characters"
        )
    return value


def _number(
    argument: str,
    value: object,
    *,
    most: float,
    above: float | None = None,
    least: float | None = None,
) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DefinitionError(f"{argument} is {value!r}: it must be a number")
    if (above is not None and value <= above) or (least is not None and value < least):
        bound = f"more than {above:g}" if least is None else f"{least:g} or more"
        raise DefinitionError(f"{argument} is {value:g}: it must be {bound}")
    if value > most:
        raise DefinitionError(f"{argument} is {value:g}: it must not exceed {most:g}")
    return float(value)


def _whole(argument: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DefinitionError(f"{argument} is {value!r}: it must be a whole number")
    if not least <= value <= most:
        raise DefinitionError(f"{argument} is {value}: it must be between {least} and {most:,}")
    return value


def _seconds(argument: str, value: object) -> int:
    # Asked this way, not by its type, so that workers need not load the module.
    total = getattr(value, "total_seconds", None)
    seconds = value if total is None else total()
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise DefinitionError(f"{argument} is {value!r}: it must be a timedelta, or seconds")
    if not 1 <= seconds <= MAX_SECONDS:
        raise DefinitionError(
            f"{argument} is {seconds:g} seconds: it must be between 1 and {MAX_SECONDS:,} seconds"
        )
    if seconds != int(seconds):
        raise DefinitionError(f"{argument} is {seconds:g} seconds: it must be whole seconds")
    return int(seconds)


def _memory(value: object) -> float:
    number, unit = 0.0, None
    if isinstance(value, str):
        text = value.strip()
        unit = next((unit for unit in _BYTES if text.endswith(unit)), None)
        try:
            number = float(text.removesuffix(unit or ""))
        except ValueError:
            unit = None
    if unit is None or not math.isfinite(number):
        raise DefinitionError(
            f"memory is {value!r}: it must be a text such as '512 MiB' or '2 GiB' "
            f"(units: {', '.join(_BYTES)})"
        )
    gib = number * _BYTES[unit] / 2**30
    if gib <= 0:
        raise DefinitionError(f"memory is {value!r}: it must be more than 0")
    if gib > MAX_MEMORY_GIB:
        raise DefinitionError(f"memory is {value!r}: it must not exceed {MAX_MEMORY_GIB} GiB")
    return gib
