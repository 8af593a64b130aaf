"""The connection to Temporal, and the names that all programs must agree on there."""

from collections.abc import Mapping
from functools import cache
from typing import Final

import structlog
import temporalio.api.enums.v1 as temporal_enums
import temporalio.api.operatorservice.v1 as operator_service
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError, RPCStatusCode

from core.settings import TemporalSettings

logger = structlog.get_logger(__name__)

PROJECT: Final = SearchAttributeKey.for_keyword("Project")
VERSION: Final = SearchAttributeKey.for_keyword("Version")
FUNCTION: Final = SearchAttributeKey.for_keyword("Function")

SEARCH_ATTRIBUTES: Final[Mapping[str, str]] = {
    key.name: "Keyword" for key in (PROJECT, VERSION, FUNCTION)
}
"""Name -> type, as `temporal server start-dev --search-attribute` takes them."""


@cache
def _runtime() -> Runtime:
    # The client library's native part prints to standard output, past our logging: errors only.
    # Its warnings are about slow steps, and come by the hundred when the machine is busy.
    quiet = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=quiet)))


async def connect(
    settings: TemporalSettings, *, lazy: bool = False, embedded: bool = False
) -> Client:
    """Connect to Temporal.

    Args:
        settings: address and namespace; TLS and API key are read by Temporal's own `envconfig`.
        lazy: connect at the first call (for the API, which must start without Temporal).
        embedded: the server has neither TLS nor keys; what `envconfig` finds is about another one.

    Raises:
        ConnectionError: not lazy, and nothing answers at the address.
    """
    config: ClientConnectConfig = {} if embedded else ClientConfig.load_client_connect_config()
    config["target_host"] = settings.temporal_address
    config["namespace"] = settings.temporal_namespace
    try:
        return await Client.connect(
            **config, data_converter=pydantic_data_converter, lazy=lazy, runtime=_runtime()
        )
    except RuntimeError as error:
        address = settings.temporal_address
        raise ConnectionError(f"Temporal does not answer at {address}: {error}") from error


async def ensure_search_attributes(client: Client) -> None:
    """Register our search attributes in the namespace; harmless where they exist.

    Where it is not for clients to make them, as on Temporal Cloud, a warning names those that the
    operator must make.

    Raises:
        RPCError: the server refuses for another reason, for example an unknown namespace.
    """
    request = operator_service.AddSearchAttributesRequest(
        namespace=client.namespace,
        search_attributes=dict.fromkeys(
            SEARCH_ATTRIBUTES, temporal_enums.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        ),
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}:
            logger.warning(
                "search_attributes_not_registered",
                error=str(error),
                namespace=client.namespace,
                make_these_yourself=dict(SEARCH_ATTRIBUTES),
            )
        elif error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


def workflow_ui_url(ui_url: str, namespace: str, workflow_id: str, run_id: str | None) -> str:
    """Address a workflow, or one of its runs, in Temporal's web UI."""
    url = f"{ui_url.rstrip('/')}/namespaces/{namespace}/workflows/{workflow_id}"
    return url if run_id is None else f"{url}/{run_id}/history"
