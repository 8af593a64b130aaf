"""Search attributes, on servers that do not let clients make them."""

from dataclasses import dataclass, field
from typing import cast

import pytest
import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core.temporal.client import ensure_search_attributes


@dataclass
class _OperatorService:
    status: RPCStatusCode

    async def add_search_attributes(self, request: object) -> None:
        del request
        raise RPCError("not here", self.status, b"")


@dataclass
class _RefusingTemporal:
    """Answers as Temporal Cloud does; no dev server can be made to."""

    operator_service: _OperatorService
    namespace: str = field(default="ours.a1b2c")


def _client(status: RPCStatusCode) -> Client:
    return cast("Client", _RefusingTemporal(_OperatorService(status)))


@pytest.mark.parametrize("status", [RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED])
async def test_where_clients_may_not_make_them_a_warning_names_them(status: RPCStatusCode) -> None:
    with structlog.testing.capture_logs() as logs:
        await ensure_search_attributes(_client(status))
    assert logs == [
        {
            "event": "search_attributes_not_registered",
            "log_level": "warning",
            "error": "not here",
            "namespace": "ours.a1b2c",
            "make_these_yourself": {
                "Project": "Keyword",
                "Version": "Keyword",
                "Function": "Keyword",
            },
        }
    ]


async def test_existing_ones_are_fine() -> None:
    with structlog.testing.capture_logs() as logs:
        await ensure_search_attributes(_client(RPCStatusCode.ALREADY_EXISTS))
    assert logs == []


async def test_another_refusal_is_an_error() -> None:
    with pytest.raises(RPCError, match="not here"):
        await ensure_search_attributes(_client(RPCStatusCode.NOT_FOUND))
