"""Imports a project's modules and writes down which functions they decorate.

A program for `control_plane._deploy.discovery`, run by the project's own interpreter:
`discovery_child.py ANSWER_FILE FOLDER MODULE...`. The standard library only.
"""

import json
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


class _ModuleIsMissingError(Exception):
    """The project has no module of this name."""


class _FunctionIsHiddenError(Exception):
    """Workers would not find a function; the text says why."""


def _main() -> None:
    answer_file, folder, *modules = sys.argv[1:]
    own_folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as the runner
    sys.path[:] = [entry for entry in sys.path if entry != own_folder]
    sys.path.insert(0, folder)
    # Last: an interpreter that has the SDK installed uses its own.
    sys.path.append(os.path.dirname(os.path.dirname(own_folder)))  # noqa: PTH120 - as the runner
    sys.argv = [folder]
    try:
        answer: dict[str, Any] = {"functions": _functions(modules)}
    except _ModuleIsMissingError as error:
        answer = {"missing": str(error)}
    except _FunctionIsHiddenError as error:
        answer = {"error": str(error)}
    except BaseException as error:  # noqa: BLE001 - SystemExit at import, too, is a failure
        answer = {"error": _explain(error, folder)}
    with open(answer_file, "w", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib here
        json.dump(answer, file)


def _functions(modules: "list[str]") -> "list[dict[str, Any]]":
    found: dict[str, dict[str, Any]] = {}
    for name in modules:
        # The built-in leaves the import system's own frames out of tracebacks.
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                raise _ModuleIsMissingError(name) from None
            raise
        for attribute, value in _decorated(sys.modules[name]):
            _check(value, f"{name}.{attribute}")
            # Its own name, by which it calls itself and others call it, wherever it was found.
            found[value.spec["function_name"]] = value.spec
    return list(found.values())


def _decorated(module: "ModuleType") -> "list[tuple[str, Any]]":
    """Give what `@function` has made, among it what the module has imported."""
    return [
        (attribute, value)
        for attribute, value in vars(module).items()
        if type(value).__module__.startswith("control_plane.")
        and isinstance(getattr(value, "spec", None), dict)
    ]


def _check(function: "Any", place: str) -> None:  # noqa: ANN401 - what the SDK there has made
    module = sys.modules.get(function.__module__)
    local = function.__control_plane_function__
    # What workers find must be the function itself, or what was decorated.
    if getattr(module, function.__qualname__, None) not in (function, local):
        raise _FunctionIsHiddenError(
            f"Workers could not find {place}: its own name is {function.__qualname__!r} in the "
            f"module {function.__module__!r}, where there is no such function. Define it with def "
            "at the top level of the module, under the name that it keeps"
        )


def _explain(error: BaseException, folder: str) -> str:
    described = traceback.TracebackException.from_exception(error)
    chain: traceback.TracebackException | None = described
    while chain is not None:
        # Ours, and those of libraries, say nothing about the user's mistake.
        own = [frame for frame in chain.stack if frame.filename.startswith(folder + os.sep)]
        chain.stack = traceback.StackSummary.from_list(own)
        chain = chain.__cause__ or chain.__context__
    text = "".join(described.format()).rstrip()
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = (
            f"\n{error.name!r} is not installed for {sys.executable}. The functions are looked for "
            "on this machine: install what the project depends on in a virtual environment .venv "
            "in its folder, or name another interpreter with --python"
        )
    return f"The project cannot be imported:\n{text}{hint}"


if __name__ == "__main__":
    _main()
