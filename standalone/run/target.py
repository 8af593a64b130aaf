"""What `control-plane run` is asked to run: `FILE.py::function`, and the folder around it."""

import ast
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from standalone.errors import StandaloneError

_HOW_TO = """Write @function above it:

    from control_plane import function

    @function
    def {name}(...):"""


class TargetError(StandaloneError):
    """There is no such file or function, or it is not decorated."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A function, and what is deployed to run it."""

    file: Path
    folder: Path
    """The folder of the file; of a file in a package, the folder of the outermost package."""
    module: str
    name: str

    @property
    def function_name(self) -> str:
        """The function's name on the server."""
        return self.name if self.module == "main" else f"{self.module}:{self.name}"

    @property
    def folder_is_no_project(self) -> bool:
        """Whether the file lies beside things that surely do not belong to it.

        In a home folder, in one that holds home folders, and in those for temporary files.
        """
        home = Path.home().resolve()
        shared = {Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")}  # noqa: S108 - only compared
        return self.folder in shared or home.is_relative_to(self.folder)


def find_target(text: str) -> Target:
    """Find what `FILE.py::function` names, without importing it.

    Raises:
        TargetError: there is no such function that could be run; the text says what to do.
    """
    path, separator, name = text.rpartition("::")
    if not separator:
        path, name = text, ""
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise TargetError(f"There is no Python file {path}. The form is FILE.py::FUNCTION")
    file = file.resolve()
    functions, others = _names_in(file)
    if not name:
        raise TargetError(f"Which function of {path}? Write {path}::NAME. {_listed(functions)}")
    if name not in functions and name not in others:
        raise TargetError(f"{path} has no function {name!r}. {_listed(functions)}")
    folder, module = _place_of(file)
    declares = (folder / "control-plane.toml").is_file()
    if not functions.get(name, True) and not declares:
        raise TargetError(f"{name} in {path} is no function to deploy. {_HOW_TO.format(name=name)}")
    return Target(file=file, folder=folder, module=module, name=name)


def _place_of(file: Path) -> tuple[Path, str]:
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _names_in(file: Path) -> tuple[dict[str, bool], set[str]]:
    """Give the functions of a module with whether they are decorated, and its other names."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise TargetError(f"{file}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise TargetError(f"{file} cannot be read: {error}") from None
    functions: dict[str, bool] = {}
    others: set[str] = set()
    for statement in _statements(tree.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            functions[statement.name] = bool(statement.decorator_list)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            others |= {(each.asname or each.name).partition(".")[0] for each in statement.names}
        else:
            others |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return functions, others


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _statements(statement.body)
            yield from _statements(getattr(statement, "orelse", []))


def _listed(functions: dict[str, bool]) -> str:
    decorated = [name for name, is_decorated in functions.items() if is_decorated]
    if decorated:
        return f"Functions to run: {', '.join(decorated)}"
    if functions:
        return f"None of its functions ({', '.join(functions)}) has @function above it"
    return "It has no functions"
