"""The page at `/docs`: the OpenAPI document for people, as HTML without any script.

It needs nothing but itself and `style.css` from beside it, so it works where there is no internet,
and nobody else's script can be run in it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

Node = Mapping[str, Any]

_METHODS: Final = ("get", "post", "put", "delete")
_SCHEMAS: Final = "#/components/schemas/"
_CODE = re.compile(r"`([^`]+)`")
_LIMITS: Final = {
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "entries, at least",
    "maxItems": "entries, at most",
}
_HOW_TO_SEND: Final = """\
<p>Where it says <em>with a key</em>, a request needs the header
<code>Authorization: Bearer KEY</code>. The <a href="{source}">OpenAPI document</a> is for
generators of clients.</p>"""
_ANYTHING_BUT_NUL: Final = r"^[^\x00]*$"
"""The pattern of most texts: to a reader it says nothing."""


def render(document: Node, *, style: str, source: str) -> str:
    """Give the page.

    Args:
        document: in OpenAPI 3.0, as `api.openapi` makes it.
        style: address of the style sheet.
        source: address of the document itself.
    """
    info = document["info"]
    operations = list(_operations(document))
    tags = list(dict.fromkeys(_tag(operation) for _, _, operation in operations))
    schemas: Node = document["components"]["schemas"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    body = [
        "<nav>",
        f"<p><strong>{title}</strong></p>",
        *(_entries(tag, operations) for tag in tags),
        '<p><a href="#types">Types</a></p>',
        "</nav><main>",
        f"<h1>{title}</h1>",
        _paragraphs(info["description"]),
        _HOW_TO_SEND.format(source=escape(source)),
    ]
    for tag in tags:
        body.append(f'<h2 id="{escape(tag)}">{escape(tag.capitalize())}</h2>')
        body += [_operation(*each) for each in operations if _tag(each[2]) == tag]
    body.append('<h2 id="types">Types</h2>')
    body += [_type(name, schema) for name, schema in schemas.items()]
    body.append("</main>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="stylesheet" href="{escape(style)}"></head>\n'
        "<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield method, path, methods[method]


def _tag(operation: Node) -> str:
    tags: list[str] = operation.get("tags") or ["other"]
    return tags[0]


def _entries(tag: str, operations: Iterable[tuple[str, str, Node]]) -> str:
    entries = "".join(
        f'<li><a href="#{escape(operation["operationId"])}">{escape(operation["summary"])}</a></li>'
        for _, _, operation in operations
        if _tag(operation) == tag
    )
    return f'<p><a href="#{escape(tag)}">{escape(tag.capitalize())}</a></p><ul>{entries}</ul>'


def _operation(method: str, path: str, operation: Node) -> str:
    key = " <small>with a key</small>" if operation.get("security") else ""
    parts = [
        f'<section id="{escape(operation["operationId"])}">',
        f"<h3>{escape(operation['summary'])}{key}</h3>",
        f'<p class="path"><b class="{method}">{method.upper()}</b> <code>{escape(path)}</code></p>',
        _paragraphs(operation.get("description", "")),
    ]
    rows = [
        _row(
            each["name"],
            each["schema"],
            required=each.get("required", False),
            note=f"in the {each['in']}",
            text=each.get("description", ""),
        )
        for each in operation.get("parameters", ())
    ]
    if rows:
        parts.append(_table("Parameters", rows))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: {_shape(content.get('schema', {}))}, {escape(media)}</p>")
    answers = [
        f"<tr><th>{escape(status)}</th><td>{_answer(answer)}</td></tr>"
        for status, answer in sorted(operation["responses"].items())
    ]
    parts.append(_table("Answers", answers))
    return "\n".join([*parts, "</section>"])


def _answer(answer: Node) -> str:
    contents = answer.get("content", {}).values()
    shapes = [_shape(content["schema"]) for content in contents if "schema" in content]
    # One text for each error that has this status.
    texts = [_inline(text) for text in answer["description"].split(" / ")]
    return "<br>".join([*shapes, *texts])


def _type(name: str, schema: Node) -> str:
    parts = [
        f'<section id="type-{escape(name)}"><h3>{escape(name)}</h3>',
        _paragraphs(schema.get("description", "")),
    ]
    required = schema.get("required", ())
    rows = [
        _row(field, each, required=field in required, text=each.get("description", ""))
        for field, each in schema.get("properties", {}).items()
    ]
    parts.append(_table("Fields", rows) if rows else f"<p>{_shape(schema)}</p>")
    return "\n".join([*parts, "</section>"])


def _row(name: str, schema: Node, *, required: bool, text: str, note: str = "") -> str:
    facts = [note, "" if required else "optional", *_limits(schema)]
    if schema.get("default") is not None:
        facts.append(f"default {schema['default']}")
    shown = escape(", ".join(filter(None, facts)))
    return (
        f"<tr><th><code>{escape(name)}</code></th><td>{_shape(schema)}"
        f"<br><small>{shown}</small></td><td>{_inline(text)}</td></tr>"
    )


def _limits(schema: Node) -> Iterator[str]:
    for key, words in _LIMITS.items():
        if key in schema:
            above = key == "minimum" and schema.get("exclusiveMinimum")
            yield f"{'above' if above else words} {schema[key]}"
    pattern = schema.get("pattern", _ANYTHING_BUT_NUL)
    if pattern != _ANYTHING_BUT_NUL:
        yield f"pattern {pattern}"


def _shape(schema: Node) -> str:
    """Say in a few words what a value is, with links to the types."""
    alternatives = schema.get("anyOf") or schema.get("allOf")
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        shape = f'<a href="#type-{escape(name)}">{escape(name)}</a>'
    elif alternatives:
        shape = " or ".join(_shape(each) for each in alternatives)
    elif "enum" in schema:
        shape = " | ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    elif schema.get("type") == "array":
        shape = f"array of {_shape(schema.get('items', {}))}"
    else:
        shape = escape(schema.get("type", "anything"))
    return f"{shape} or null" if schema.get("nullable") else shape


def _table(title: str, rows: Iterable[str]) -> str:
    return f"<table><caption>{title}</caption>{''.join(rows)}</table>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(each)}</p>" for each in text.strip().split("\n\n") if each)


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))
