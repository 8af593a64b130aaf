"""The OpenAPI document, in version 3.0.3, which existing client generators read.

FastAPI writes OpenAPI 3.1. What differs is rewritten here: nullable types, constants, lists of
examples, exclusive bounds.
"""

from collections.abc import Mapping
from typing import Any, Final

from api.access.authentication import BEARER

OPENAPI_VERSION: Final = "3.0.3"


def add_bearer_scheme(document: dict[str, Any]) -> None:
    """Declare the bearer token that each `AuthenticatedRoute` names as its security."""
    document.setdefault("components", {})["securitySchemes"] = {
        BEARER: {
            "type": "http",
            "scheme": "bearer",
            "description": "The API key of the server, or a worker's token",
        }
    }


def to_openapi_3_0(document: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite an OpenAPI 3.1 document, as FastAPI makes it, to 3.0.3."""
    rewritten = {key: _rewrite(value) for key, value in document.items()}
    return {**rewritten, "openapi": OPENAPI_VERSION}


def _rewrite(node: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    if isinstance(node, list):
        return [_rewrite(item) for item in node]
    if not isinstance(node, dict):
        return node
    rewritten = {key: _rewrite(value) for key, value in node.items()}
    if "const" in rewritten:
        rewritten["enum"] = [rewritten.pop("const")]
    if isinstance(rewritten.get("examples"), list):
        examples = rewritten.pop("examples")
        rewritten["example"] = examples[0]
    if isinstance(rewritten.get("exclusiveMinimum"), int | float):
        rewritten["minimum"] = rewritten["exclusiveMinimum"]
        rewritten["exclusiveMinimum"] = True
    for bound in ("minimum", "maximum"):
        value = rewritten.get(bound)
        if isinstance(value, float) and value.is_integer():
            rewritten[bound] = int(value)
    return _with_nullable(rewritten)


def _with_nullable(schema: dict[str, Any]) -> dict[str, Any]:
    alternatives = schema.get("anyOf")
    if not isinstance(alternatives, list) or {"type": "null"} not in alternatives:
        return schema
    others = [alternative for alternative in alternatives if alternative != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if len(others) > 1:
        return {**rest, "anyOf": others, "nullable": True}
    if "$ref" in others[0]:
        # In 3.0 whatever stands beside a $ref is ignored.
        return {**rest, "allOf": others, "nullable": True}
    return {**others[0], **rest, "nullable": True}
