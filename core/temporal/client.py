"""The connection to Temporal, and the names that all programs must agree on there."""

from collections.abc import Mapping
from functools import cache
from typing import Final

import structlog
import temporalio.api.enums.v1 as temporal_enums
import temporalio.api.operatorservice.v1 as operator_service
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import HttpConnectProxyConfig, RPCError, RPCStatusCode

from core.settings import TemporalSettings

logger = structlog.get_logger(__name__)

PROJECT: Final = SearchAttributeKey.for_keyword("Project")
VERSION: Final = SearchAttributeKey.for_keyword("Version")
FUNCTION: Final = SearchAttributeKey.for_keyword("Function")

SEARCH_ATTRIBUTES: Final[Mapping[str, str]] = {
    key.name: "Keyword" for key in (PROJECT, VERSION, FUNCTION)
}
"""Name -> type, as `temporal server start-dev --search-attribute` takes them."""


SOCKET_SCHEME: Final = "unix:"
"""Before the path of a Unix socket in `temporal_address`, as the client library writes it."""
SOCKET_USER: Final = "control-plane"
"""Whom the secret of a Unix socket is for; the socket has no other user."""


class EmbeddedTemporalSettings(TemporalSettings):
    """Where a Temporal is that this project runs: it has neither TLS nor keys.

    What Temporal's own TEMPORAL_* variables say is about another one.
    """

    temporal_secret: SecretStr = SecretStr("")
    """What the relay behind `unix:PATH` asks for (`standalone.temporal.relay_main`)."""


@cache
def _runtime() -> Runtime:
    # The client library's native part prints to standard output, past our logging: errors only.
    # Its warnings are about slow steps, and come by the hundred when the machine is busy.
    quiet = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=quiet)))


async def connect(settings: TemporalSettings, *, lazy: bool = False) -> Client:
    """Connect to Temporal.

    Args:
        settings: address and namespace. TLS and API key are read by Temporal's own `envconfig`,
            unless these are `EmbeddedTemporalSettings`.
        lazy: connect at the first call (for the API, which must start without Temporal).

    Raises:
        ConnectionError: not lazy, and nothing answers at the address.
    """
    try:
        return await Client.connect(
            **connect_config(settings),
            data_converter=pydantic_data_converter,
            lazy=lazy,
        )
    except RuntimeError as error:
        address = settings.temporal_address
        raise ConnectionError(f"Temporal does not answer at {address}: {error}") from error


class ConnectConfig(ClientConnectConfig, total=False):
    """Arguments for `temporalio.client.Client.connect`. They hold secrets: print them nowhere."""

    http_connect_proxy_config: HttpConnectProxyConfig
    runtime: Runtime


def connect_config(settings: TemporalSettings) -> ConnectConfig:
    """Say how to connect, see `connect`."""
    where: ConnectConfig = {
        "target_host": settings.temporal_address,
        "namespace": settings.temporal_namespace,
        "runtime": _runtime(),
    }
    if not isinstance(settings, EmbeddedTemporalSettings):
        return {**ClientConfig.load_client_connect_config(), **where}
    if settings.temporal_address.startswith(SOCKET_SCHEME):
        # The library reaches a Unix socket as an HTTP proxy (crates/client/src/proxy.rs of its
        # native part, seen with 1.35). The proxy is the relay, for which every target is Temporal.
        where["target_host"] = "temporal:7233"
        where["http_connect_proxy_config"] = HttpConnectProxyConfig(
            target_host=settings.temporal_address,
            basic_auth=(SOCKET_USER, settings.temporal_secret.get_secret_value()),
        )
    return where


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
