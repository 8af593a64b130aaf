"""`GET I?wait=SECONDS`: answered when the invocation ends; no connection is held till then."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg import sql
from sqlalchemy import AsyncAdaptedQueuePool, text

from core.errors import InvocationDoesNotExistError, RegistryIsUnavailableError
from core.ids import execution_id_of_run
from core.messages import EndWaitingRequest
from core.settings import RegistrySettings
from core.states import InterruptReason
from registry.changes import Changes
from registry.database.engine import Registry
from registry.transitions.executions import end_waiting
from tests.support.api import (
    USER,
    Api,
    as_worker,
    assert_error,
    execution_id_of,
    id_of,
    invocation_id_of,
    parent_of,
    serving,
)
from tests.support.harness import STANDARD, ControlPlane, Json, eventually, eventually_true
from tests.support.stack.processes import Program

LONG = {"wait": 60}
LESS_THAN_LONG = 45
"""An answer within so many seconds has not come because the time had passed."""


async def end(registry: Registry, *invocation_paths: str) -> None:
    """End invocations that have no execution, as their workflows would."""
    async with registry.transaction() as session:
        for path in invocation_paths:
            request = EndWaitingRequest(
                invocation_id=invocation_id_of(path), reason=InterruptReason.CANCELLED
            )
            await end_waiting(session, request)


@asynccontextmanager
async def waiting(api: Api, changes: Changes, path: str) -> AsyncIterator[asyncio.Task[Json]]:
    """A request that waits, and is answered after what happens in the block."""
    before = changes.watcher_count
    request = asyncio.create_task(api.ok("GET", path, params=LONG))
    await eventually_true(lambda: changes.watcher_count == before + 1)
    yield request
    async with asyncio.timeout(LESS_THAN_LONG):
        await request
    assert changes.watcher_count == before


@pytest.mark.parametrize("by_id", [False, True])
async def test_the_answer_comes_when_the_invocation_ends(
    api: Api, changes: Changes, function: str, *, by_id: bool
) -> None:
    invocation = await api.invoke(function)
    path = f"/invocations/{id_of(invocation)}" if by_id else invocation
    async with waiting(api, changes, path) as request:
        assert (await api.ok("GET", path))["invocation_status"] == "RUNNING"
        assert not request.done()
        await end(api.registry, path)
    answer = await request
    assert answer["invocation_status"] == "TERMINATED"
    assert answer == await api.ok("GET", path)


async def test_the_end_of_another_one_is_no_answer(
    api: Api, changes: Changes, function: str
) -> None:
    path, other = [await api.invoke(function) for _ in range(2)]
    async with waiting(api, changes, path) as request:
        async with waiting(api, changes, other):
            await end(api.registry, other)
        assert not request.done()
        await end(api.registry, path)


async def test_an_invocation_that_has_ended_is_answered_at_once(api: Api, function: str) -> None:
    path = await api.invoke(function)
    await end(api.registry, path)
    async with asyncio.timeout(LESS_THAN_LONG):
        answer = await api.ok("GET", path, params=LONG)
    assert answer == await api.ok("GET", path)


@pytest.mark.parametrize("seconds", ["0", "0.05"])
async def test_when_the_time_has_passed_the_answer_is_the_present_state(
    api: Api, changes: Changes, function: str, seconds: str
) -> None:
    path = await api.invoke(function)
    answer = await api.ok("GET", path, params={"wait": seconds})
    assert answer["invocation_status"] == "RUNNING"
    assert answer == await api.ok("GET", path)
    assert changes.watcher_count == 0


async def test_a_new_version_does_not_disturb_who_waits_for_latest(
    api: Api, changes: Changes
) -> None:
    version = await api.deploy(STANDARD)
    path = await api.invoke(f"{version}/functions/standard")
    latest = f"/projects/shop/versions/latest/{path.partition('/versions/')[2].partition('/')[2]}"
    async with waiting(api, changes, latest) as request:
        await api.deploy(STANDARD)
        assert_error(await api.get(latest), 404, InvocationDoesNotExistError.detail)
        await end(api.registry, path)
    assert (await request)["invocation_status"] == "TERMINATED"


@pytest.mark.parametrize(
    ("wait", "says"),
    [
        ("60.5", "less than or equal to 60"),
        ("-1", "greater than or equal to 0"),
        ("nan", "finite"),
        ("soon", "number"),
    ],
)
async def test_val_only_0_to_60_seconds_are_accepted(
    api: Api, function: str, wait: str, says: str
) -> None:
    answer = await api.get(f"{function}/invocations/inv-0", params={"wait": wait})
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["loc"] == ["query", "wait"]
    assert says in problem["msg"]


async def test_what_is_missing_or_forbidden_is_answered_at_once(api: Api, function: str) -> None:
    path = await api.invoke(function)
    stranger = as_worker(execution_id_of_run("0198c0de-0000-7000-8000-000000000000"))
    async with asyncio.timeout(LESS_THAN_LONG):
        missing = await api.get(f"{function}/invocations/inv-0", params=LONG)
        assert_error(missing, 404, InvocationDoesNotExistError.detail)
        forbidden = await api.get(path, params=LONG, headers=stranger)
        assert forbidden.status_code == 403


async def test_a_worker_may_wait_for_its_child(api: Api, changes: Changes, function: str) -> None:
    own = await api.invoke(function)
    execution = await api.add_execution(own)
    child = await api.invoke(function, parent_invocation=parent_of("standard", own))
    worker = as_worker(execution_id_of(execution))
    request = asyncio.create_task(api.ok("GET", child, params=LONG, headers=worker))
    await eventually_true(lambda: changes.watcher_count == 1)
    await end(api.registry, child)
    async with asyncio.timeout(LESS_THAN_LONG):
        assert (await request)["invocation_status"] == "TERMINATED"


_IN_USE = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'control-plane' AND state <> 'idle' AND pid <> pg_backend_pid()"
)


async def connections_in_use(registry: Registry) -> int:
    """Count what the pool has handed out, and what Postgres sees at work or in a transaction."""
    pool = registry.engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    handed_out = pool.checkedout()
    async with registry.autocommit() as session:
        return handed_out + (await session.scalar(_IN_USE) or 0)


async def until_ended(api: Api, path: str) -> Json:
    """Wait as clients do: a slow machine may take longer than one request can wait."""
    while True:
        answer = await api.ok("GET", path, params=LONG)
        if answer["invocation_status"] == "TERMINATED":
            return answer


def _are_waiting(changes: Changes, count: int) -> bool:
    return changes.watcher_count == count


async def test_500_requests_wait_at_once_and_hold_no_connection(
    api: Api, changes: Changes, function: str
) -> None:
    assert api.registry.pool_size == 20
    paths = [await api.invoke(function) for _ in range(10)]
    # Connected before the crowd comes, which occupies this process for longer than that may take.
    await asyncio.gather(*(api.ok("GET", path) for path in paths))
    requests: list[asyncio.Task[Json]] = []
    for path in paths:
        requests += [asyncio.create_task(until_ended(api, path)) for _ in range(50)]
        await eventually_true(partial(_are_waiting, changes, len(requests)), seconds=60)

    await eventually(lambda: connections_in_use(api.registry), lambda count: count == 0, seconds=60)
    assert not any(request.done() for request in requests)

    await end(api.registry, *paths)
    async with asyncio.timeout(120):
        await asyncio.gather(*requests)
    assert changes.watcher_count == 0


async def test_when_postgres_has_gone_away_meanwhile_the_answer_is_503(
    api: Api, changes: Changes, function: str, registry_settings: RegistrySettings
) -> None:
    path = await api.invoke(function)
    request = asyncio.create_task(api.get(path, params={"wait": 2}))
    await eventually_true(lambda: changes.watcher_count == 1 or request.done())
    async with await psycopg.AsyncConnection.connect(
        host=registry_settings.postgres_host,
        port=registry_settings.postgres_port,
        user=registry_settings.postgres_user,
        password=registry_settings.postgres_password.get_secret_value(),
        dbname="postgres",
        autocommit=True,
    ) as maintenance:
        name = registry_settings.postgres_db
        await maintenance.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name))
        )
        await maintenance.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        answer = await request
    assert_error(answer, 503, RegistryIsUnavailableError.detail)
    assert answer.headers["retry-after"] == "1"


async def test_a_client_that_hangs_up_is_not_waited_for(
    api: Api, app: FastAPI, changes: Changes, function: str
) -> None:
    path = await api.invoke(function)
    async with serving(app, changes) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"GET {path}?wait=60 HTTP/1.1\r\nHost: control-plane\r\n"
            f"Authorization: {USER['Authorization']}\r\n\r\n".encode()
        )
        await eventually_true(lambda: changes.watcher_count == 1)
        writer.close()
        await writer.wait_closed()
        await eventually_true(lambda: changes.watcher_count == 0)


async def test_who_waits_is_answered_when_the_server_stops(
    api: Api, app: FastAPI, changes: Changes, function: str
) -> None:
    path = await api.invoke(function)
    async with (
        serving(app, changes) as server,
        httpx.AsyncClient(base_url=server.url, headers=USER, timeout=60) as http,
    ):
        request = asyncio.create_task(http.get(path, params=LONG))
        await eventually_true(lambda: changes.watcher_count == 1)
        server.stop.set()
        async with asyncio.timeout(LESS_THAN_LONG):
            answer = await request
    assert answer.status_code == 200
    assert answer.json()["invocation_status"] == "RUNNING"


_HAS_READ = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'control-plane' AND state = 'idle'"
    " AND query LIKE '%FROM executions%' AND pid <> pg_backend_pid()"
)


async def test_sigterm_answers_who_waits_and_ends_the_process(
    registry: Registry, api_program: Program
) -> None:
    started = await asyncio.to_thread(api_program.event, "api_listening")
    url = f"http://127.0.0.1:{started['port']}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        api = Api(http, registry)
        version = await api.deploy(STANDARD)
        path = await api.invoke(f"{version}/functions/standard")
        request = asyncio.create_task(api.ok("GET", path, params=LONG))

        async def has_read() -> int:
            async with registry.autocommit() as session:
                return await session.scalar(_HAS_READ) or 0

        await eventually(has_read, lambda count: count > 0)
        api_program.send(signal.SIGTERM)
        async with asyncio.timeout(LESS_THAN_LONG):
            answer = await request
    assert answer["invocation_status"] == "RUNNING"
    assert await asyncio.to_thread(api_program.wait, seconds=LESS_THAN_LONG) == 0


async def test_the_end_of_a_real_worker_is_the_answer(control_plane: ControlPlane) -> None:
    await control_plane.deploy(STANDARD)
    path = await control_plane.invoke("standard")
    request = asyncio.create_task(control_plane.http.get(path, params=LONG, timeout=60))
    execution = await control_plane.until_worker_runs(path)
    await execution.play("SUCCEEDED", output="done")
    async with asyncio.timeout(LESS_THAN_LONG):
        answer = (await request).json()
    assert answer["invocation_status"] == "TERMINATED"
    assert answer["executions"][0]["output"] == "done"
