"""A Temporal that is away or hangs: requests are recorded and answered, and reads are served."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable

import pytest
from fastapi import FastAPI

from core.settings import TemporalSettings
from core.temporal.client import connect
from tests.support.api import Api, id_of
from tests.support.harness import STANDARD, eventually, parts_for
from tests.support.tcp_proxy import TcpProxy

log = logging.getLogger(__name__)
"""Measured times: `pytest -o log_cli=true --log-cli-level=INFO` shows them."""

LIMIT_SECONDS = 60


async def take_dispatcher(app: FastAPI, settings: TemporalSettings, *, lazy: bool) -> None:
    client = await connect(settings, lazy=lazy)
    context = app.state.context
    parts = parts_for(context.registry, client, settings.temporal_task_queue)
    app.state.context = dataclasses.replace(context, dispatcher=parts.dispatcher)


async def timed(what: str, request: Awaitable[object]) -> None:
    begun = time.monotonic()
    async with asyncio.timeout(LIMIT_SECONDS):
        await request
    log.info("%s answered after %.2f s", what, time.monotonic() - begun)


async def assert_all_is_accepted(api: Api) -> None:
    version = await api.deploy(STANDARD)
    function = f"{version}/functions/standard"
    invocation = await api.invoke(function)
    assert (await api.ok("GET", invocation))["phase"] == "QUEUED"
    await timed("POST", api.invoke(function))
    await timed("cancel", api.ok("PUT", f"{invocation}/cancel"))
    assert (await api.ok("GET", invocation))["cancellation_requested"] is True
    await timed("DELETE", api.ok("DELETE", "/projects/shop"))


async def test_all_is_accepted_while_temporal_refuses_connections(app: FastAPI, api: Api) -> None:
    await take_dispatcher(app, TemporalSettings(temporal_address="127.0.0.1:1"), lazy=True)
    await assert_all_is_accepted(api)


@pytest.fixture
async def proxy(temporal_settings: TemporalSettings) -> AsyncIterator[TcpProxy]:
    """A way to Temporal that can be blocked."""
    host, _, port = temporal_settings.temporal_address.partition(":")
    proxy = TcpProxy(lambda: asyncio.open_connection(host, int(port)))
    async with proxy.serving():
        yield proxy


def behind(proxy: TcpProxy, settings: TemporalSettings) -> TemporalSettings:
    return settings.model_copy(update={"temporal_address": f"127.0.0.1:{proxy.port}"})


async def test_all_is_accepted_while_temporal_accepts_connections_and_never_answers(
    app: FastAPI, api: Api, temporal_settings: TemporalSettings, proxy: TcpProxy
) -> None:
    proxy.block()
    await take_dispatcher(app, behind(proxy, temporal_settings), lazy=True)
    await assert_all_is_accepted(api)


async def test_all_is_accepted_while_temporal_hangs_and_the_next_call_is_started_at_once(
    app: FastAPI, api: Api, temporal_settings: TemporalSettings, proxy: TcpProxy
) -> None:
    """On a connection that was in use before. A start that is under way then is made after it."""
    await take_dispatcher(app, behind(proxy, temporal_settings), lazy=False)
    direct = await connect(temporal_settings)

    async def has_workflow(invocation: str) -> bool:
        found = direct.list_workflows(f"WorkflowId = '{id_of(invocation)}'")
        return [one async for one in found] != []

    await api.ok("PUT", "/projects/other")
    proxy.block()
    await assert_all_is_accepted(api)
    proxy.unblock()
    version = await api.deploy(STANDARD, project="other")
    invocation = await api.invoke(f"{version}/functions/standard")
    await eventually(lambda: has_workflow(invocation), bool)
