"""What lists, reads and creations of invocations cost beside few others and beside a million."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic import SecretStr
from sqlalchemy import text

from api.app import create_app
from bench.figures import Sample, Section, line
from bench.rows import ENDED, ONE_OF_MANY, PROJECT, QUEUED, Filled, fill
from core.contract.invocations import ParentInvocationDefinition
from core.contract.paging import InvocationOffset
from core.ids import InvocationId, creation_time_of
from core.settings import (
    ApiKeySettings,
    ApiSettings,
    BundleStoreSettings,
)
from core.states import InvocationStatus
from core.temporal.client import SEARCH_ATTRIBUTES
from registry.changes import Changes
from registry.database.engine import Registry
from registry.database.migrate import upgrade
from registry.queries.invocation_pages import list_invocations
from registry.queries.invocations import create_invocation, get_invocation
from registry.queries.paths import FunctionPath, InvocationPath
from runtime.parts import PartsSettings, open_parts
from standalone.servers.postgres import EmbeddedPostgres
from standalone.temporal.open_server import OpenTemporal

Json = dict[str, Any]
Call = Callable[[], Awaitable[object]]

_KEY: Final = "bench"
_FILTERS: Final = (
    ("all", None, False),
    ("RUNNING", InvocationStatus.RUNNING, False),
    ("TERMINATED", InvocationStatus.TERMINATED, False),
    ("of a parent", None, True),
    ("of a parent, RUNNING", InvocationStatus.RUNNING, True),
    ("of a parent, TERMINATED", InvocationStatus.TERMINATED, True),
)


class _Calls:
    """All calls that are measured, by what they are called in the table."""

    def __init__(self, registry: Registry, http: httpx.AsyncClient, filled: Filled) -> None:
        self._registry = registry
        self._http = http
        self._filled = filled

    def path(self, function: str) -> str:
        version = self._filled.version_id
        return f"/projects/{PROJECT}/versions/{version}/functions/{function}/invocations"

    def pages(self, status: InvocationStatus | None, *, of_parent: bool) -> tuple[list[Call], ...]:
        """Each page of each function, through the registry and over HTTP."""
        parent = ParentInvocationDefinition(
            function_name=ENDED, invocation_id=self._filled.parent_id
        )
        began = int(creation_time_of(self._filled.parent_id).timestamp())
        offsets = (
            None,
            InvocationOffset((began + int(time.time())) // 2, "inv-g"),
            InvocationOffset(began + 1, "inv-0"),
        )
        below: list[Call] = []
        over_http: list[Call] = []
        for function, offset, size in itertools.product(
            (ENDED, QUEUED, ONE_OF_MANY), offsets, (1, 50)
        ):
            query = {
                "max_results": size,
                "initial_offset": None if offset is None else str(offset),
                "status": None if status is None else status.value,
                "parent_function_name": parent.function_name if of_parent else None,
                "parent_invocation_id": parent.invocation_id if of_parent else None,
            }
            given = {key: value for key, value in query.items() if value is not None}

            async def page(
                function: str = function, offset: InvocationOffset | None = offset, size: int = size
            ) -> None:
                async with self._registry.autocommit() as session:
                    await list_invocations(
                        session,
                        FunctionPath(
                            project_name=PROJECT,
                            version_id=self._filled.version_id,
                            function_name=function,
                        ),
                        page_size=size,
                        offset=offset,
                        status=status,
                        parent=parent if of_parent else None,
                    )

            async def answer(function: str = function, query: Json = given) -> None:
                (await self._http.get(self.path(function), params=query)).raise_for_status()

            below.append(page)
            over_http.append(answer)
        return below, over_http

    async def newest(self) -> str:
        """Name the last invocation in the queue."""
        first = (await self._http.get(self.path(QUEUED), params={"max_results": 1})).json()
        return str(first["invocations"][0]["invocation_id"])

    def gets(self, invocation_id: str) -> tuple[list[Call], ...]:
        async def get() -> None:
            async with self._registry.autocommit() as session:
                await get_invocation(
                    session,
                    InvocationPath(
                        project_name=PROJECT,
                        version_id=self._filled.version_id,
                        function_name=QUEUED,
                        invocation_id=InvocationId(invocation_id),
                    ),
                )

        async def answer() -> None:
            (await self._http.get(f"{self.path(QUEUED)}/{invocation_id}")).raise_for_status()

        return [get] * 10, [answer] * 10

    def creations(self) -> tuple[list[Call], ...]:
        parent = ParentInvocationDefinition(
            function_name=ENDED, invocation_id=self._filled.parent_id
        )
        body = {"input": "{}", "parent_invocation": parent.model_dump()}

        async def create() -> None:
            async with self._registry.transaction() as session:
                await create_invocation(
                    session,
                    project_name=PROJECT,
                    version_id=self._filled.version_id,
                    function_name=ENDED,
                    input_="{}",
                    parent=parent,
                )

        async def answer() -> None:
            (await self._http.post(self.path(ENDED), json=body)).raise_for_status()

        return [create] * 10, [answer] * 10


@asynccontextmanager
async def _filled(
    rows: int, postgres: EmbeddedPostgres, temporal: OpenTemporal
) -> AsyncIterator[_Calls]:
    """Fill a database of its own, and open it for calls."""
    database = f"rows_{rows}"
    await asyncio.to_thread(postgres.create_database, database)
    settings = PartsSettings(
        registry=postgres.registry_settings(database),
        # No Temporal worker serves this queue: workflows are started, as always, and never run.
        temporal=temporal.settings.model_copy(update={"temporal_task_queue": "bench-listing"}),
        keys=ApiKeySettings(control_plane_api_key=SecretStr(_KEY)),
        bundles=BundleStoreSettings(bundle_store_folder=None),
    )
    await asyncio.to_thread(upgrade, settings.registry)
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings))
        registry = parts.registry
        app = create_app(
            parts,
            changes=await stack.enter_async_context(Changes(registry)),
            default_pool="process",
            api_settings=ApiSettings(),
        )
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://control-plane",
                headers={"Authorization": f"Bearer {_KEY}"},
            )
        )
        filled = await fill(registry, rows=rows)
        # What filling has left to write does not belong to the reads.
        async with registry.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("CHECKPOINT"))
        yield _Calls(registry, http, filled)


async def _in_turns(few: list[Call], many: list[Call], *, repeats: int) -> tuple[Sample, Sample]:
    """Make the same calls to both, one here and one there; milliseconds."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for pair in zip(few, many, strict=True):
            for call, times in zip(pair, taken, strict=True):
                began = time.perf_counter()
                await call()
                # The first ones prepare statements and fill caches.
                if number:
                    times.append((time.perf_counter() - began) * 1000)
    return Sample.of(taken[0]), Sample.of(taken[1])


async def _cases(calls: _Calls) -> dict[str, tuple[list[Call], ...]]:
    cases = {
        f"list: {name}": calls.pages(status, of_parent=of_parent)
        for name, status, of_parent in _FILTERS
    }
    cases["get the last one in the queue"] = calls.gets(await calls.newest())
    cases["create a child"] = calls.creations()
    return cases


async def listing(folder: Path, *, sizes: tuple[int, int], repeats: int) -> Section:
    """Measure beside few and beside many invocations, in turns.

    Args:
        folder: for the servers' data.
        sizes: how many invocations one function has, few and many.
        repeats: how often each call is made; a list is 18 of them.
    """
    folder = folder / "listing"
    folder.mkdir()
    folder.chmod(0o711)
    few, many = sizes
    lines = []
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(
            EmbeddedPostgres(folder / "postgres", durable=False, max_connections=60)
        )
        temporal = await stack.enter_async_context(
            OpenTemporal(
                folder / "temporal", persistent=False, ui=False, search_attributes=SEARCH_ATTRIBUTES
            )
        )
        small, large = [
            await _cases(await stack.enter_async_context(_filled(rows, postgres, temporal)))
            for rows in sizes
        ]
        baseline = f"{few:,} rows"
        for name, layers in large.items():
            for layer, there in zip(("registry", "HTTP"), layers, strict=True):
                here = small[name][("registry", "HTTP").index(layer)]
                base, sample = await _in_turns(here, there, repeats=repeats)
                label = f"{name} ({layer})"
                lines.append(line(f"{label}: p50", sample, "ms", to=(baseline, base.p50)))
                to = (baseline, base.p99)
                lines.append(line(f"{label}: p99", sample, "ms", at=0.99, to=to, at_most=1.5))
    return Section(
        title=f"5 one function of {many:,} invocations, of 2.1 times as many", lines=lines
    )
