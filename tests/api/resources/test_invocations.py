"""Invocations: rules INV-D, and the fields beyond the contract."""

import asyncio
import re
import uuid

import pytest
from temporalio.client import Client

from core.clock import utc_now
from core.states import InvocationStatus, Phase, QueueReason, WorkerStatus
from tests.support.api import Api, assert_error, id_of, parent_of
from tests.support.harness import LIMITED, STANDARD, UI_URL, Json

NO_INVOCATION = "An invocation with this ID does not exist for this function"
NO_PARENT = "The ID of the parent invocation is invalid"


async def test_inv_d1_a_new_invocation_shows_itself_and_its_function(
    api: Api, temporal_client: Client
) -> None:
    version = await api.deploy(STANDARD, LIMITED)
    created = await api.ok(
        "POST", f"{version}/functions/standard/invocations", json={"input": "in"}
    )
    assert re.fullmatch("inv-[0-9a-f]{32}", created["invocation_id"])
    assert type(created["creation_time"]) is int
    assert created == {
        "project_name": "shop",
        "version_id": id_of(version),
        "function_name": "standard",
        "invocation_id": created["invocation_id"],
        "parent_invocation": None,
        "resource_spec": STANDARD["resource_spec"],
        "execution_spec": STANDARD["execution_spec"],
        "function_status": "PENDING",
        "prepared_function_details": None,
        "input": "in",
        "cancellation_requested": False,
        "cancellation_request_time": None,
        "invocation_status": "RUNNING",
        "creation_time": created["creation_time"],
        "last_update_time": created["creation_time"],
        "executions": [],
        "phase": "QUEUED",
        "phase_detail": None,
        "queue_position": None,
        "temporal_url": (
            f"{UI_URL}/namespaces/{temporal_client.namespace}/workflows/{created['invocation_id']}"
        ),
    }
    path = f"{version}/functions/standard/invocations"
    assert await api.ok("GET", f"{path}/{created['invocation_id']}") == created
    assert [e["invocation_id"] for e in (await api.ok("GET", path))["invocations"]] == [
        created["invocation_id"]
    ]
    other = await api.ok("GET", f"{version}/functions/limited/invocations")
    assert other["invocations"] == []


async def test_its_workflow_is_started(api: Api, function: str, temporal_client: Client) -> None:
    path = await api.invoke(function)
    description = await temporal_client.get_workflow_handle(id_of(path)).describe()
    assert description.workflow_type == "Invocation"


async def test_inv_d2_an_invocation_belongs_to_one_function(api: Api) -> None:
    version = await api.deploy(STANDARD, LIMITED)
    path = await api.invoke(f"{version}/functions/standard")
    for method, suffix in (("GET", ""), ("PUT", "/cancel")):
        elsewhere = f"{version}/functions/limited/invocations/{id_of(path)}{suffix}"
        assert_error(await api.request(method, elsewhere), 404, NO_INVOCATION)


async def test_inv_d3_a_child_shows_its_cancelled_and_terminated_parent(api: Api) -> None:
    version = await api.deploy(STANDARD, LIMITED)
    parent = await api.invoke(f"{version}/functions/standard")
    await api.ok("PUT", f"{parent}/cancel")
    now = utc_now()
    await api.change_invocation(
        parent, status=InvocationStatus.TERMINATED, phase=Phase.CANCELLED, terminated_at=now
    )
    await api.invoke(f"{version}/functions/limited")
    child = await api.invoke(
        f"{version}/functions/limited", parent_invocation=parent_of("standard", parent)
    )
    seen_parent, seen_child = await api.ok("GET", parent), await api.ok("GET", child)
    assert seen_child["parent_invocation"] == {
        "function_name": "standard",
        "invocation_id": id_of(parent),
        "cancellation_requested": True,
        "cancellation_request_time": seen_parent["cancellation_request_time"],
        "invocation_status": "TERMINATED",
        "creation_time": seen_parent["creation_time"],
        "last_update_time": seen_parent["last_update_time"],
    }
    # It carries a request of its own from the start.
    assert seen_child["cancellation_requested"] is True
    assert seen_child["invocation_status"] == "RUNNING"

    page = await api.ok(
        "GET",
        f"{version}/functions/limited/invocations",
        params={"parent_function_name": "standard", "parent_invocation_id": id_of(parent)},
    )
    assert [entry["invocation_id"] for entry in page["invocations"]] == [id_of(child)]
    assert page["invocations"][0]["parent_invocation"] == parent_of("standard", parent)


async def test_inv_d4_a_parent_must_exist_in_the_same_project_and_version(api: Api) -> None:
    old = await api.deploy(STANDARD)
    new = await api.deploy(STANDARD, LIMITED)
    in_old = await api.invoke(f"{old}/functions/standard")
    in_new = await api.invoke(f"{new}/functions/standard")
    wrong: list[Json] = [
        {"function_name": "standard", "invocation_id": "inv-none"},
        parent_of("standard", in_old),
        parent_of("limited", in_new),
    ]
    for parent in wrong:
        answer = await api.post(
            f"{new}/functions/limited/invocations",
            json={"input": "", "parent_invocation": parent},
        )
        assert_error(answer, 400, NO_PARENT)
    page = await api.ok("GET", f"{new}/functions/limited/invocations")
    assert page["invocations"] == []


async def test_inv_d5_lists_by_status_follow(api: Api, function: str) -> None:
    ended, running = await api.invoke(function), await api.invoke(function)
    await api.change_invocation(ended, status=InvocationStatus.TERMINATED, phase=Phase.FAILED)
    for status, expected in (("RUNNING", running), ("TERMINATED", ended)):
        page = await api.ok("GET", f"{function}/invocations", params={"status": status})
        assert [e["invocation_id"] for e in page["invocations"]] == [id_of(expected)]


async def test_inv_d6_a_cancel_is_recorded_once_and_refused_after_the_end(
    api: Api, function: str
) -> None:
    path, other = await api.invoke(function), await api.invoke(function)
    untouched = await api.ok("GET", other)
    cancelled = await api.ok("PUT", f"{path}/cancel")
    assert cancelled["cancellation_requested"] is True
    assert cancelled["last_update_time"] >= cancelled["cancellation_request_time"]
    earlier = utc_now().replace(year=2020)
    await api.change_invocation(path, cancellation_requested_at=earlier, updated_at=earlier)
    again = await api.ok("PUT", f"{path}/cancel")
    assert again["cancellation_request_time"] == int(earlier.timestamp())
    assert again["last_update_time"] == int(earlier.timestamp())
    assert await api.ok("GET", other) == untouched

    await api.change_invocation(
        other, status=InvocationStatus.TERMINATED, phase=Phase.SUCCEEDED, queue_reason=None
    )
    ended = await api.ok("GET", other)
    refused = await api.put(f"{other}/cancel")
    assert_error(refused, 409, "This invocation has already terminated")
    assert await api.ok("GET", other) == ended


async def test_a_cancel_reaches_running_children(api: Api, function: str) -> None:
    parent = await api.invoke(function)
    child = await api.invoke(function, parent_invocation=parent_of("standard", parent))
    await api.ok("PUT", f"{parent}/cancel")
    assert (await api.ok("GET", child))["cancellation_requested"] is True


async def test_an_invocation_in_a_project_that_is_being_deleted_is_accepted_and_cancelled(
    api: Api, function: str
) -> None:
    await api.ok("DELETE", "/projects/shop")
    seen = await api.ok("GET", await api.invoke(function))
    assert seen["cancellation_request_time"] == seen["creation_time"]
    assert seen["invocation_status"] == "RUNNING"


async def test_a_child_and_a_cancel_at_the_same_time_never_miss_each_other(
    api: Api, function: str
) -> None:
    for _ in range(5):
        parent = await api.invoke(function)
        child, _ = await asyncio.gather(
            api.invoke(function, parent_invocation=parent_of("standard", parent)),
            api.ok("PUT", f"{parent}/cancel"),
        )
        assert (await api.ok("GET", child))["cancellation_requested"] is True


async def test_the_queue_position_counts_older_waiters_that_are_not_in_back_off(
    api: Api, function: str
) -> None:
    paths = [await api.invoke(function) for _ in range(4)]
    for path in paths:
        await api.change_invocation(path, queue_reason=QueueReason.FUNCTION_LIMIT)

    async def positions() -> list[int | None]:
        return [(await api.ok("GET", path))["queue_position"] for path in paths]

    assert await positions() == [1, 2, 3, 4]
    await api.change_invocation(paths[0], phase=Phase.RUNNING, queue_reason=None)
    await api.change_invocation(paths[1], queue_reason=QueueReason.BACKOFF)
    assert await positions() == [None, None, 1, 2]


async def test_executions_are_shown_oldest_first(api: Api, function: str) -> None:
    path = await api.invoke(function)
    ended = WorkerStatus.TERMINATED
    third = await api.add_execution(path, attempt=3)
    first = await api.add_execution(path, attempt=1, worker_status=ended)
    second = await api.add_execution(path, attempt=2, worker_status=ended)
    seen = (await api.ok("GET", path))["executions"]
    assert [e["execution_id"] for e in seen] == [id_of(first), id_of(second), id_of(third)]
    assert [e["attempt"] for e in seen] == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["", "/cancel"])
async def test_an_unknown_id_of_any_shape_is_404(api: Api, function: str, suffix: str) -> None:
    method = "PUT" if suffix else "GET"
    for unknown in ("inv-1", "nonsense", f"inv-{uuid.uuid4().hex}", "\U0001f600"):
        answer = await api.request(method, f"{function}/invocations/{unknown}{suffix}")
        assert_error(answer, 404, NO_INVOCATION)
