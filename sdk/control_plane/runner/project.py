"""The user's project: where its code lies and which function is meant."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_DEFAULT_MODULE = "main"


class FunctionNotFoundError(Exception):
    """The project has no such module, or the module has no such function."""


def find_function(function_name: str, *, folder: str) -> "Callable[..., object]":
    """Import the user's module and give the function, looking for modules in `folder` first.

    Raises:
        FunctionNotFoundError: the module or the function does not exist, or it cannot be called.
        BaseException: whatever the user's module raises when it is imported.
    """
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    module_name, separator, attribute = function_name.partition(":")
    if not separator:
        module_name, attribute = _DEFAULT_MODULE, function_name
    if not module_name or not attribute:
        raise FunctionNotFoundError(
            f"{function_name!r} names no function: write `name` (in main.py) or `module:name`"
        )
    module = _import(module_name, folder)
    try:
        function: Callable[..., object] = getattr(module, attribute)
    except AttributeError:
        raise FunctionNotFoundError(
            f"The module {module_name!r} has no function {attribute!r}. {_offer(module)}"
        ) from None
    if not callable(function):
        raise FunctionNotFoundError(
            f"{attribute!r} in the module {module_name!r} cannot be called: it is of the type "
            f"{type(function).__name__}. {_offer(module)}"
        )
    # What `@function` has made. It is asked this way since its module need not be loaded here.
    decorated: Callable[..., object] = getattr(function, "__control_plane_function__", function)
    return decorated


def _import(name: str, folder: str) -> "ModuleType":
    try:
        # The built-in, since it leaves the import system's own frames out of tracebacks.
        __import__(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            raise FunctionNotFoundError(
                f"There is no module {name!r} in the project folder {folder}"
            ) from None
        raise
    return sys.modules[name]


def _offer(module: "ModuleType") -> str:
    public = sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    )
    return f"It has: {', '.join(public)}" if public else "It has no public functions"
