"""Writes docs/sdk-reference.md from the docstrings of the library: `make sdk-reference`.

Reads the source and imports nothing, so the result is the same on every Python.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "sdk-reference.md"
PACKAGE = ROOT / "sdk" / "control_plane"

HEAD = """# Reference of the Python library

Made from the docstrings by `make sdk-reference`; do not edit. How the parts belong
together stands in the library's [README](../sdk/README.md).
"""

CHAPTERS: dict[str, list[str]] = {
    "Define functions": [
        "decorator.function",
        "decorator.DefinedFunction",
        "local.call_local",
    ],
    "Inside a function": [
        "context.current",
        "context.Current",
        "mailbox.progress",
        "interruption.Interrupted",
        "interruption.InvocationCancelled",
        "interruption.InvocationTimedOut",
    ],
    "Call functions": [
        "functions.Function",
        "mappable.Mappable",
        "mappable.MapOptions",
        "invocation.Invocation",
    ],
    "Errors": [
        "errors.ControlPlaneError",
        "errors.DefinitionError",
        "errors.NotInFunctionError",
        "errors.ConfigurationError",
        "errors.ServerConnectionError",
        "errors.ApiError",
        "errors.BadRequestError",
        "errors.AuthenticationError",
        "errors.NotFoundError",
        "errors.ConflictError",
        "errors.ServerUnavailableError",
        "errors.WaitTimeoutError",
        "errors.InvocationError",
        "errors.InvocationFailedError",
        "errors.InvocationCancelledError",
        "errors.InvocationTimedOutError",
    ],
    "The HTTP API": ["client.Client", "async_client.AsyncClient", "profiles.find_server"],
    "What the API answers": [
        "models.InvocationInfo",
        "models.InvocationSummary",
        "models.Execution",
        "models.Worker",
        "models.Project",
        "models.Version",
        "models.FunctionInfo",
        "models.InvocationPath",
        "models.InvocationPage",
        "models.LogPage",
    ],
}

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """Give the document's text."""
    return "\n".join([HEAD, *_chapters()]).rstrip() + "\n"


def _chapters() -> Iterator[str]:
    for title, names in CHAPTERS.items():
        yield f"## {title}\n"
        for name in names:
            module, _, attribute = name.partition(".")
            tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
            yield from _entry(_definition(tree.body, attribute), level=3)


def _definition(body: list[ast.stmt], name: str) -> _Definition:
    # Of overloads, the last one is the implementation.
    found = [each for each in body if isinstance(each, _Definition) and each.name == name]
    if not found:
        raise LookupError(f"there is no {name}")
    return found[-1]


def _entry(definition: _Definition, *, level: int, owner: str = "") -> Iterator[str]:
    yield f"{'#' * level} {owner}{definition.name}\n"
    if isinstance(definition, ast.ClassDef):
        bases = [_text(base) for base in definition.bases if "Generic" not in _text(base)]
        if bases:
            yield f"Derives from {', '.join(f'`{base}`' for base in bases)}.\n"
        yield _prose(ast.get_docstring(definition) or "")
        yield from _fields(definition)
        methods = {
            each.name: each
            for each in definition.body
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
            and not each.name.startswith("_")
            and not (ast.get_docstring(each) or "").startswith("See `Client.")
        }
        for method in methods.values():
            yield from _entry(method, level=level + 1, owner=f"{definition.name}.")
        return
    if any(_text(decorator) == "property" for decorator in definition.decorator_list):
        returns = "" if definition.returns is None else f": {_text(definition.returns)}"
        yield f"`{definition.name}{returns}`\n"
    else:
        yield f"```python\n{_signature(definition)}\n```\n"
    yield _prose(ast.get_docstring(definition) or "")


def _signature(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = definition.args
    if arguments.args and arguments.args[0].arg == "self":
        arguments.args = arguments.args[1:]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg) and argument.annotation is not None:
            argument.annotation = ast.Name(_text(argument.annotation))
    keyword = "async def" if isinstance(definition, ast.AsyncFunctionDef) else "def"
    returns = "" if definition.returns is None else f" -> {_text(definition.returns)}"
    line = f"{keyword} {definition.name}({ast.unparse(arguments)}){returns}"
    if len(line) <= 96:
        return line
    parts = re.split(r", (?![^\[]*\])", ast.unparse(arguments))
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{keyword} {definition.name}(\n{inner}){returns}"


def _text(node: ast.expr) -> str:
    # A quoted annotation is shown as what it means.
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(node)


def _fields(definition: ast.ClassDef) -> Iterator[str]:
    lines = []
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if statement.target.id.startswith("_"):
            continue
        meaning = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            meaning = f": {' '.join(str(following.value.value).split())}"
        lines.append(f"- `{statement.target.id}: {_text(statement.annotation)}`{meaning}")
    if lines:
        yield "\n".join(lines) + "\n"


def _prose(docstring: str) -> str:
    """Turn a docstring with Google's sections into Markdown."""
    text = re.sub(
        r"^(Args|Attributes|Raises|Returns|All methods raise):\n((?:    .*\n|\n)+)",
        lambda match: f"**{match[1]}:**\n\n{_items(match[2], match[1])}\n",
        docstring + "\n",
        flags=re.MULTILINE,
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _items(block: str, section: str) -> str:
    lines = textwrap.dedent(block).strip("\n")
    if section == "Returns":
        return lines + "\n"
    items = [" ".join(item.split()) for item in re.split(r"\n(?=\S)", lines)]
    return "".join("- " + re.sub(r"^([*]*[A-Za-z_]+):", r"`\1`:", item) + "\n" for item in items)


if __name__ == "__main__":
    DOCUMENT.write_text(reference(), encoding="utf-8")
