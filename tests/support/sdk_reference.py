"""Writes docs/sdk-reference.md from the docstrings of the library: `make sdk-reference`.

Reads the source of what it documents, so the result is the same on every Python.
"""

import ast
import re
import textwrap
from collections.abc import Iterator

import control_plane

from tests.support.repository import ROOT

DOCUMENT = ROOT / "docs" / "sdk-reference.md"
PACKAGE = ROOT / "sdk" / "control_plane"

HEAD = """# Reference of the Python library

Made from the docstrings by `make sdk-reference`; do not edit. How the parts belong
together stands in the library's [README](../sdk/README.md).

What stands here is imported from `control_plane` itself, but for what says another module.
"""

CHAPTERS: dict[str, list[str]] = {
    "Define functions": [
        "_define.decorator.function",
        "_define.decorator.DefinedFunction",
        "_define.local_call.call_local",
    ],
    "Inside a function": [
        "_inside.context.current",
        "_inside.context.Current",
        "_inside.progress_report.progress",
        "errors.Interrupted",
        "errors.InvocationCancelled",
        "errors.InvocationTimedOut",
    ],
    "Call functions": [
        "_call.functions.Function",
        "_call.mappable.Mappable",
        "_call.mappable.MapOptions",
        "_call.invocation.Invocation",
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
    "Deploy": [
        "deploy.deploy",
        "deploy.Deployment",
        "deploy.FunctionState",
        "deploy.DeploymentError",
        "_deploy.bundle.BundleError",
        "_deploy.discovery.DiscoveryError",
    ],
    "The HTTP API": [
        "_http.client.Client",
        "_http.async_client.AsyncClient",
        "_http.profiles.find_server",
    ],
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
        "models.ChildInvocation",
        "models.ChildPage",
        "models.LogPage",
    ],
}

EXPORTED = frozenset(control_plane.__all__)
_TITLES = {"Args": "Arguments"}
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """Give the document's text."""
    return "\n".join([HEAD, *_contents(), *_chapters()]).rstrip() + "\n"


def _contents() -> Iterator[str]:
    lines = []
    for title, names in CHAPTERS.items():
        # Errors are many, and stand in a table.
        links = "" if title == "Errors" else ": " + ", ".join(map(_link, names))
        lines.append(f"- [{title}](#{title.lower().replace(' ', '-')}){links}")
    yield "\n".join(lines) + "\n"


def _link(name: str) -> str:
    """Link to a heading; of headings that differ in case only, the later ones have a number."""
    things = [each.rpartition(".")[2] for names in CHAPTERS.values() for each in names]
    thing = name.rpartition(".")[2]
    number = [each.lower() for each in things[: things.index(thing)]].count(thing.lower())
    return f"[`{thing}`](#{thing.lower()}{f'-{number}' if number else ''})"


def _chapters() -> Iterator[str]:
    for title, names in CHAPTERS.items():
        yield f"## {title}\n"
        definitions = {}
        for name in names:
            module, _, attribute = name.rpartition(".")
            file = PACKAGE / f"{module.replace('.', '/')}.py"
            tree = _with_constants(ast.parse(file.read_text("utf-8")))
            definitions[name] = _definition(tree.body, attribute)
        if title == "Errors":
            yield from _table(definitions)
        for name, definition in definitions.items():
            # What is imported from a module lies in a room of the same name, or in no room.
            module = name.split(".")[-2]
            where = "" if definition.name in EXPORTED else f"In `control_plane.{module}`."
            if title != "Errors" or "\n" in (ast.get_docstring(definition) or ""):
                yield from _entry(definition, level=3, where=where)


def _table(definitions: dict[str, _Definition]) -> Iterator[str]:
    """Give a line for each error: what it derives from, and what it means."""
    lines = ["| error | is a | when |", "|---|---|---|"]
    for full_name, each in definitions.items():
        text = ast.get_docstring(each) or ""
        name = _link(full_name) if "\n" in text else f"`{each.name}`"
        bases = ", ".join(f"`{_text(base)}`" for base in getattr(each, "bases", []))
        lines.append(f"| {name} | {bases} | {' '.join(text.partition(chr(10) * 2)[0].split())} |")
    yield "\n".join(lines) + "\n"


def _with_constants(tree: ast.Module) -> ast.Module:
    """Put the values of a module's constants where they are named."""
    values = {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
    }

    class Values(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    return Values().visit(tree)  # type: ignore[no-any-return]  # a module, as it was


def _definition(body: list[ast.stmt], name: str) -> _Definition:
    # Of overloads, the last one is the implementation.
    found = [each for each in body if isinstance(each, _Definition) and each.name == name]
    if not found:
        raise LookupError(f"there is no {name}")
    return found[-1]


def _entry(
    definition: _Definition, *, level: int, owner: str = "", twin: str = "", where: str = ""
) -> Iterator[str]:
    yield f"{'#' * level} {owner}{definition.name}\n"
    if where:
        yield where + "\n"
    if isinstance(definition, ast.ClassDef):
        bases = [_text(base) for base in definition.bases if "Generic" not in _text(base)]
        if bases:
            yield f"Derives from {', '.join(f'`{base}`' for base in bases)}.\n"
        if arguments := _init_of(definition):
            yield f"```python\n{arguments}\n```\n"
        yield _prose(ast.get_docstring(definition) or "")
        yield from _fields(definition)
        methods = {
            each.name: each
            for each in definition.body
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
            and not each.name.startswith("_")
            and not (ast.get_docstring(each) or "").startswith("See `Client.")
        }
        for name, method in methods.items():
            original = name.removesuffix("_async")
            if original != name and original in methods:
                continue
            has_twin = f"{name}_async" in methods
            yield from _entry(
                method,
                level=level + 1,
                owner=f"{definition.name}.",
                twin=f"{name}_async" if has_twin else "",
            )
        return
    if any(_text(decorator) == "property" for decorator in definition.decorator_list):
        returns = "" if definition.returns is None else f": {_text(definition.returns)}"
        yield f"`{definition.name}{returns}`\n"
    else:
        yield f"```python\n{_signature(definition)}\n```\n"
    if twin:
        yield f"In an event loop: `{twin}`, with the same arguments, to be awaited or iterated.\n"
    yield _prose(ast.get_docstring(definition) or "")


def _init_of(definition: ast.ClassDef) -> str:
    """Give how a class is called, where its docstring says what the arguments are."""
    if "\nArgs:\n" not in (ast.get_docstring(definition) or ""):
        return ""
    init = _definition(definition.body, "__init__")
    assert isinstance(init, ast.FunctionDef)
    text = _signature(init).removeprefix("def __init__").removesuffix(" -> None")
    return definition.name + text


def _signature(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    keyword = "async def" if isinstance(definition, ast.AsyncFunctionDef) else "def"
    returns = "" if definition.returns is None else f" -> {_text(definition.returns)}"
    parts = list(_arguments(definition.args))
    line = f"{keyword} {definition.name}({', '.join(parts)}){returns}"
    if len(line) <= 96:
        return line
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{keyword} {definition.name}(\n{inner}){returns}"


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    for number, (each, default) in enumerate(
        zip(positional, [*missing, *arguments.defaults], strict=True), start=1
    ):
        if each.arg != "self":
            yield _argument(each, default)
        if number == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg is not None:
        yield "*" + _argument(arguments.vararg, None)
    elif arguments.kwonlyargs:
        yield "*"
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(each, default)
    if arguments.kwarg is not None:
        yield "**" + _argument(arguments.kwarg, None)


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = "" if argument.annotation is None else f": {_text(argument.annotation)}"
    value = "" if default is None else f" = {_default(default)}"
    return f"{argument.arg}{annotation}{value}"


def _default(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return f'"{node.value}"'
    return ast.unparse(node)


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
        lambda match: f"**{_TITLES.get(match[1], match[1])}:**\n\n{_items(match[2], match[1])}\n",
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
