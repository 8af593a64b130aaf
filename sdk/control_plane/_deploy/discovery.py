"""Finds the functions of a project folder.

The user's modules are imported in a process of their own (`discovery_child`): they may belong to
another interpreter, and whatever they do at import stays there.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.errors import ControlPlaneError

PROJECT_FILE: Final = "control-plane.toml"
_USUAL_MODULE: Final = "main"
_IMPORT_SECONDS: Final = 120
_RESOURCES: Final = ("virtual_cpus", "memory_gbs", "max_concurrency")
_EXECUTION: Final = ("max_retries", "timeout_seconds")
_DEFAULTS: Final[dict[str, Any]] = {
    "virtual_cpus": 1.0,
    "memory_gbs": 0.5,
    "max_concurrency": 10,
    "max_retries": 0,
    "timeout_seconds": 3600,
}
"""As of `@function`."""

Spec = dict[str, Any]
"""A function as the API's `POST .../versions` takes it."""


class DiscoveryError(ControlPlaneError):
    """The functions of a project cannot be found; the text says why, maybe with a traceback."""


class _ModuleIsMissingError(Exception):
    """The project has no module of this name."""


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """The functions that were found in a project."""

    functions: list[Spec]
    output: str = ""
    """What the modules printed while they were imported."""


def discover(folder: Path, *, modules: Sequence[str] = (), python: Path | None = None) -> Discovery:
    """Find the functions of a project.

    In a project whose `control-plane.toml` names a `command`, they are the tables `functions.NAME`
    of that file. Otherwise they are the decorated functions that the modules define or import: the
    modules given, or `tool.control-plane.modules` in `pyproject.toml`, or `main`.

    Args:
        folder: the project's folder.
        modules: names of modules, dotted.
        python: interpreter to import them with; by default that of the project's `.venv`, else
            this one.

    Raises:
        DiscoveryError: there are none, or a file cannot be read or imported.
    """
    # The import takes place in that folder. Links stay: they are what makes a virtual environment.
    folder = folder.absolute()
    declared = _declared(folder)
    if declared is not None:
        return Discovery(functions=declared)
    chosen_names = list(modules) or _configured_modules(folder)
    names = chosen_names or [_USUAL_MODULE]
    own = folder / ".venv" / "bin" / "python"
    chosen = python or (own if own.exists() else Path(sys.executable))
    program = chosen.absolute()
    try:
        found = _import(folder, names, program)
    except _ModuleIsMissingError as error:
        raise DiscoveryError(
            _missing_text(str(error), folder, was_named=bool(chosen_names))
        ) from None
    if not found.functions:
        raise DiscoveryError(
            f"No decorated function in {', '.join(names)}. Write @function above those that "
            "are to be deployed (from control_plane import function)"
        )
    return found


def _missing_text(module: str, folder: Path, *, was_named: bool) -> str:
    place = "/".join(module.split("."))
    text = f"There is no module {module!r} in {folder}: looked for {place}.py and {place}/"
    if was_named:
        return text
    files = sorted(file.stem for file in folder.glob("*.py") if file.stem.isidentifier())
    example = files[0] if files else "NAME"
    return (
        f"{text}. Functions are looked for in main.py: write them there, with @function above each "
        "(from control_plane import function). If yours are elsewhere, say so: --module "
        f"{example}, or in pyproject.toml:\n\n  [tool.control-plane]\n  modules = [{example!r}]\n\n"
        "A project in another language names its program and its functions in "
        f"{PROJECT_FILE}"
    )


def _declared(folder: Path) -> list[Spec] | None:
    content = _read_toml(folder / PROJECT_FILE)
    if "command" not in content and "functions" not in content:
        return None
    tables = content.get("functions")
    if not isinstance(tables, dict) or not tables:
        raise DiscoveryError(
            f"{PROJECT_FILE} has a command, but no functions: declare each with a table "
            "[functions.NAME]"
        )
    return [_declared_spec(name, table) for name, table in tables.items()]


def _declared_spec(name: str, table: object) -> Spec:
    known = (*_RESOURCES, *_EXECUTION, "retry_spec")
    if not isinstance(table, dict):
        raise DiscoveryError(f"{PROJECT_FILE}: functions.{name} must be a table")
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise DiscoveryError(
            f"{PROJECT_FILE}: functions.{name} has the unknown key {unknown[0]!r}; known are "
            f"{', '.join(known)}"
        )
    values = {**_DEFAULTS, **table}
    spec: Spec = {
        "function_name": name,
        "resource_spec": {key: values[key] for key in _RESOURCES},
        "execution_spec": {key: values[key] for key in _EXECUTION},
    }
    if "retry_spec" in table:
        spec["retry_spec"] = table["retry_spec"]
    return spec


def _configured_modules(folder: Path) -> list[str]:
    tool = _read_toml(folder / "pyproject.toml").get("tool")
    own = tool.get("control-plane") if isinstance(tool, dict) else None
    modules = own.get("modules", []) if isinstance(own, dict) else []
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise DiscoveryError("pyproject.toml: tool.control-plane.modules must be a list of names")
    return modules


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DiscoveryError(f"{file} cannot be read: {error}") from None


def _import(folder: Path, modules: Sequence[str], python: Path) -> Discovery:
    child = Path(__file__).with_name("discovery_child.py")
    with tempfile.TemporaryDirectory(prefix="control-plane-") as temporary:
        answer_file = Path(temporary) / "answer"
        try:
            ended = subprocess.run(
                # -B: a project's folder is left as it is.
                [str(python), "-B", str(child), str(answer_file), str(folder), *modules],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_IMPORT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DiscoveryError(
                f"Importing {', '.join(modules)} takes more than {_IMPORT_SECONDS} seconds"
            ) from None
        except OSError as error:
            raise DiscoveryError(f"{python} cannot be started: {error.strerror}") from None
        output = ended.stdout.decode(errors="replace")
        try:
            answer = json.loads(answer_file.read_bytes())
        except (FileNotFoundError, ValueError):
            raise DiscoveryError(
                f"Importing {', '.join(modules)} ended Python with {ended.returncode}\n{output}"
            ) from None
    if "missing" in answer:
        raise _ModuleIsMissingError(answer["missing"])
    if "error" in answer:
        printed = f"\nPrinted until then:\n{output.rstrip()}" if output.strip() else ""
        raise DiscoveryError(answer["error"] + printed)
    return Discovery(functions=answer["functions"], output=output)
