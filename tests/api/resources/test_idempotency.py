"""`Idempotency-Key`: the same request repeated gives the same invocation, and creates nothing."""

import asyncio
from collections import Counter

import httpx
import pytest
from sqlalchemy import func, select
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core.errors import ParentInvocationDoesNotExistError
from core.ids import VersionId
from core.messages import EndWaitingRequest
from core.states import InterruptReason
from registry.database.engine import Registry
from registry.database.tables import Invocation
from registry.queries.invocations import create_invocation
from registry.transitions.executions import end_waiting
from tests.registry.queries.test_queries import statements_of
from tests.support.api import (
    USER,
    Api,
    as_worker,
    assert_error,
    execution_id_of,
    invocation_id_of,
    parent_of,
)
from tests.support.harness import STANDARD, Json, function_spec

BODY = {"input": "the input"}
USED = {
    "detail": [
        {
            "type": "idempotency_key_used",
            "loc": ["header", "Idempotency-Key"],
            "msg": "The key was used for another request to this function",
        }
    ]
}


async def post(
    api: Api,
    function: str,
    body: Json | None = None,
    *,
    key: str | bytes = "key",
    caller: dict[str, str] | None = None,
) -> httpx.Response:
    headers = {name.encode(): value.encode() for name, value in (caller or USER).items()}
    headers[b"Idempotency-Key"] = key if isinstance(key, bytes) else key.encode()
    return await api.http.post(f"{function}/invocations", json=body or BODY, headers=headers)


async def created(
    api: Api,
    function: str,
    body: Json | None = None,
    *,
    key: str = "key",
    **options: dict[str, str],
) -> Json:
    answer = await post(api, function, body, key=key, **options)
    assert answer.status_code == 200, answer.text
    info: Json = answer.json()
    return info


async def count(registry: Registry) -> int:
    async with registry.autocommit() as session:
        return await session.scalar(select(func.count()).select_from(Invocation)) or 0


async def end(api: Api, path: str) -> None:
    request = EndWaitingRequest(
        invocation_id=invocation_id_of(path), reason=InterruptReason.CANCELLED
    )
    async with api.registry.transaction() as session:
        await end_waiting(session, request)


async def has_workflow(client: Client, invocation_id: str) -> bool:
    try:
        await client.get_workflow_handle(invocation_id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


async def test_the_same_request_gives_the_same_invocation(api: Api, function: str) -> None:
    first = await created(api, function)
    assert await created(api, function) == first
    assert await count(api.registry) == 1


async def test_the_present_state_is_given(api: Api, function: str) -> None:
    first = await created(api, function)
    path = f"{function}/invocations/{first['invocation_id']}"
    execution = await api.add_execution(path)
    assert await created(api, function) == await api.ok("GET", path)
    await api.change_execution(execution, worker_status="TERMINATED")
    await end(api, path)
    ended = await created(api, function)
    assert ended["invocation_status"] == "TERMINATED"
    assert ended == await api.ok("GET", path)


async def test_without_a_key_every_request_is_a_new_invocation(api: Api, function: str) -> None:
    await created(api, function)
    for _ in range(2):
        await api.invoke(function)
    assert await count(api.registry) == 3


async def test_another_key_is_another_invocation(api: Api, function: str) -> None:
    first, second = [await created(api, function, key=key) for key in ("key", "Key")]
    assert first["invocation_id"] != second["invocation_id"]


async def test_another_body_is_refused(api: Api, function: str) -> None:
    parent = parent_of("standard", await api.invoke(function))
    other_parent = parent_of("standard", await api.invoke(function))
    await created(api, function)
    await created(api, function, {**BODY, "parent_invocation": parent}, key="child")
    before = await count(api.registry)
    for body, key in (
        ({"input": "another input"}, "key"),
        ({**BODY, "parent_invocation": parent}, "key"),
        ({**BODY, "parent_invocation": other_parent}, "child"),
        (BODY, "child"),
    ):
        answer = await post(api, function, body, key=key)
        assert (answer.status_code, answer.json()) == (422, USED)
    assert await count(api.registry) == before


async def test_a_key_is_good_for_one_function_of_one_version(api: Api) -> None:
    version = await api.deploy(STANDARD, function_spec("second"))
    ids = {
        (await created(api, f"{version}/functions/standard"))["invocation_id"],
        (await created(api, f"{version}/functions/second"))["invocation_id"],
    }
    latest = "/projects/shop/versions/latest/functions/standard"
    assert (await created(api, latest))["invocation_id"] in ids
    await api.deploy(STANDARD, function_spec("second"))
    ids.add((await created(api, latest))["invocation_id"])
    await api.deploy(STANDARD, project="other")
    other = "/projects/other/versions/latest/functions/standard"
    ids.add((await created(api, other))["invocation_id"])
    assert len(ids) == 4


@pytest.mark.parametrize("key", ["k", "k" * 255, 'a key of "~!", with spaces'])
async def test_val_1_to_255_printable_ascii_characters_are_accepted(
    api: Api, function: str, key: str
) -> None:
    first = await created(api, function, key=key)
    assert await created(api, function, key=key) == first


@pytest.mark.parametrize("key", [b"", b"k" * 256, "schlüssel".encode(), b"a\tb", b"\x7f"])
async def test_val_any_other_key_is_refused(api: Api, function: str, key: bytes) -> None:
    answer = await post(api, function, key=key)
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["loc"] == ["header", "Idempotency-Key"]
    assert await count(api.registry) == 0


async def test_20_equal_requests_at_once_create_one_invocation(api: Api, function: str) -> None:
    answers = await asyncio.gather(*(created(api, function) for _ in range(20)))
    assert len({answer["invocation_id"] for answer in answers}) == 1
    assert await count(api.registry) == 1


async def test_of_different_requests_at_once_one_gets_the_key(api: Api, function: str) -> None:
    bodies = [{"input": f"input {number % 2}"} for number in range(20)]
    answers = await asyncio.gather(*(post(api, function, body) for body in bodies))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {200: 10, 422: 10}
    assert await count(api.registry) == 1


async def test_a_refused_request_does_not_use_up_its_key(api: Api, function: str) -> None:
    orphan = {**BODY, "parent_invocation": {"function_name": "standard", "invocation_id": "inv-0"}}
    refused = await post(api, function, orphan)
    assert_error(refused, 400, ParentInvocationDoesNotExistError.detail)
    await created(api, function)


async def register(registry: Registry, function: str) -> str:
    """Create an invocation as a process does that ends before it has started the workflow."""
    _, _, project_name, _, version_id, _, function_name = function.split("/")
    async with registry.transaction() as session:
        registered = await create_invocation(
            session,
            project_name=project_name,
            version_id=VersionId(version_id),
            function_name=function_name,
            input_=BODY["input"],
            parent=None,
            idempotency_key="key",
        )
    return registered.invocation.id


async def test_the_repeated_request_starts_a_workflow_that_was_never_started(
    api: Api, function: str, temporal_client: Client
) -> None:
    invocation_id = await register(api.registry, function)
    assert not await has_workflow(temporal_client, invocation_id)
    assert (await created(api, function))["invocation_id"] == invocation_id
    assert await has_workflow(temporal_client, invocation_id)
    # Once more is harmless.
    await created(api, function)


async def test_no_workflow_is_started_for_what_has_ended(
    api: Api, function: str, temporal_client: Client
) -> None:
    ended = await register(api.registry, function)
    await end(api, ended)
    assert (await created(api, function))["invocation_status"] == "TERMINATED"
    assert not await has_workflow(temporal_client, ended)


async def test_a_worker_gets_back_its_own_children_only(api: Api, function: str) -> None:
    own, other = [await api.invoke(function) for _ in range(2)]
    worker = as_worker(execution_id_of(await api.add_execution(own)))
    child = {**BODY, "parent_invocation": parent_of("standard", own)}
    first = await created(api, function, child, caller=worker)
    assert await created(api, function, child, caller=worker) == first

    # Keys that were used by others, for requests that the worker may not make itself.
    others_child = {**BODY, "parent_invocation": parent_of("standard", other)}
    await created(api, function, others_child, key="of another")
    await created(api, function, key="of a user")
    for key, body in (("of another", others_child), ("of a user", BODY)):
        assert (await post(api, function, body, key=key, caller=worker)).status_code == 403
        guess = await post(api, function, child, key=key, caller=worker)
        assert (guess.status_code, guess.json()) == (422, USED)


async def test_a_key_costs_nothing_where_none_is_sent_and_one_statement_where_it_is_new(
    api: Api, function: str
) -> None:
    with statements_of(api.registry) as without:
        await api.invoke(function)
    with statements_of(api.registry) as with_key:
        await created(api, function)
    # With a key, the function is looked up first, and then the row is inserted.
    assert (len(without), len(with_key)) == (1, 2)
