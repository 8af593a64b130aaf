"""Who may do what: what a worker's token is good for."""

import pytest

from core.ids import ExecutionId
from core.states import WorkerStatus
from tests.support.api import (
    USER,
    Api,
    as_worker,
    assert_error,
    execution_id_of,
    id_of,
    parent_of,
)
from tests.support.harness import STANDARD, Json

OUT_OF_SCOPE = (
    403,
    (
        "This key is a worker's token. It is good for that worker's own execution and for "
        "child invocations of it only"
    ),
)
OTHER_EXECUTION = ExecutionId(f"exe-{'0' * 32}")


class Family:
    """An invocation with a worker, its child, and an unrelated invocation."""

    def __init__(self, api: Api, function: str, own: str, execution: str) -> None:
        self.api = api
        self.function = function
        self.own = own
        self.execution = execution
        self.headers = as_worker(execution_id_of(execution))
        self.child = ""
        self.stranger = ""

    async def allowed(self, method: str, path: str, **options: object) -> Json:
        return await self.api.ok(method, path, headers=self.headers, **options)

    async def refused(self, method: str, path: str, **options: object) -> None:
        answer = await self.api.request(method, path, headers=self.headers, **options)
        assert_error(answer, *OUT_OF_SCOPE)


@pytest.fixture
async def family(api: Api, function: str) -> Family:
    own = await api.invoke(function)
    family = Family(api, function, own, await api.add_execution(own))
    family.stranger = await api.invoke(function)
    body = {"input": "", "parent_invocation": parent_of("standard", own)}
    child = await family.allowed("POST", f"{function}/invocations", json=body)
    family.child = f"{function}/invocations/{child['invocation_id']}"
    return family


async def test_a_worker_reports_on_its_own_execution(family: Family) -> None:
    await family.allowed("PUT", f"{family.execution}/start")
    await family.allowed("PUT", f"{family.execution}/update", json={"latest_output": "x"})
    await family.allowed("PUT", f"{family.execution}/progress", json={"progress": {"done": 1}})
    await family.allowed("PUT", f"{family.execution}/finish", json={"outcome": "SUCCEEDED"})
    await family.allowed("GET", family.execution)
    await family.allowed("GET", f"{family.execution}/logs")


async def test_a_worker_does_not_touch_another_execution(family: Family, api: Api) -> None:
    other = await api.add_execution(family.stranger)
    for method, suffix in (
        ("PUT", "start"),
        ("PUT", "update"),
        ("PUT", "progress"),
        ("PUT", "finish"),
    ):
        await family.refused(method, f"{other}/{suffix}", json={})
    await family.refused("GET", other)
    await family.refused("GET", f"{other}/logs")


async def test_a_worker_reads_its_own_project_only(family: Family, api: Api) -> None:
    other = await api.deploy(STANDARD, project="other")
    await family.allowed("GET", "/projects/shop")
    await family.allowed("GET", "/projects/shop/versions/latest")
    await family.refused("GET", "/projects/other")
    await family.refused("GET", other)
    await family.refused("GET", "/projects/none")


async def test_a_worker_whose_execution_has_ended_reads_nothing_any_more(
    family: Family, api: Api
) -> None:
    mine = {"parent_function_name": "standard", "parent_invocation_id": id_of(family.own)}
    reads: list[tuple[str, dict[str, str]]] = [
        (family.execution, {}),
        (f"{family.execution}/logs", {}),
        (family.own, {}),
        (family.child, {}),
        (f"/invocations/{id_of(family.child)}", {}),
        (f"/invocations/{id_of(family.own)}/children", {}),
        (f"{family.function}/invocations", mine),
        ("/projects/shop", {}),
        ("/projects/shop/versions/latest", {}),
    ]
    await family.allowed("PUT", f"{family.execution}/start")
    for path, params in reads:
        await family.allowed("GET", path, params=params)
    await api.change_execution(family.execution, worker_status=WorkerStatus.TERMINATED)
    for path, params in reads:
        await family.refused("GET", path, params=params)
        await api.ok("GET", path, params=params)
    # Late reports still get the contract's answers.
    terminated = (409, "This execution has already terminated")
    for action, body, expected in (
        ("start", None, (409, "This execution has already started")),
        ("update", {"latest_output": "x"}, terminated),
        ("finish", {"outcome": "SUCCEEDED"}, terminated),
    ):
        answer = await api.put(f"{family.execution}/{action}", headers=family.headers, json=body)
        assert_error(answer, *expected)


async def test_a_worker_creates_children_of_its_own_invocation_only(
    family: Family, api: Api
) -> None:
    path = f"{family.function}/invocations"
    await family.refused("POST", path, json={"input": ""})
    strange = {"input": "", "parent_invocation": parent_of("standard", family.stranger)}
    await family.refused("POST", path, json=strange)
    other = await api.deploy(STANDARD, project="other")
    own = {"input": "", "parent_invocation": parent_of("standard", family.own)}
    await family.refused("POST", f"{other}/functions/standard/invocations", json=own)
    await family.allowed("POST", path, json=own)
    await api.change_execution(family.execution, worker_status=WorkerStatus.TERMINATED)
    await family.refused("POST", path, json=own)


async def test_a_worker_reads_itself_and_its_children(family: Family) -> None:
    await family.allowed("GET", family.own)
    await family.allowed("GET", family.child)
    await family.refused("GET", family.stranger)
    await family.refused("GET", f"{family.function}/invocations/inv-none")
    by_id = "/invocations/{}".format
    await family.allowed("GET", by_id(id_of(family.own)))
    await family.allowed("GET", by_id(id_of(family.child)))
    await family.refused("GET", by_id(id_of(family.stranger)))
    await family.refused("GET", by_id("inv-none"))


async def test_a_worker_lists_its_children_only(family: Family) -> None:
    path = f"{family.function}/invocations"
    mine = {"parent_function_name": "standard", "parent_invocation_id": id_of(family.own)}
    page = await family.allowed("GET", path, params=mine)
    assert [e["invocation_id"] for e in page["invocations"]] == [id_of(family.child)]
    await family.refused("GET", path)
    strange = {**mine, "parent_invocation_id": id_of(family.stranger)}
    await family.refused("GET", path, params=strange)
    children = await family.allowed("GET", f"/invocations/{id_of(family.own)}/children")
    assert [e["invocation_id"] for e in children["invocations"]] == [id_of(family.child)]
    for other in (family.child, family.stranger, "inv-none"):
        await family.refused("GET", f"/invocations/{id_of(other)}/children")


async def test_a_worker_cancels_its_children_only(family: Family, api: Api) -> None:
    await family.refused("PUT", f"{family.own}/cancel")
    await family.refused("PUT", f"{family.stranger}/cancel")
    await family.allowed("PUT", f"{family.child}/cancel")
    await api.change_execution(family.execution, worker_status=WorkerStatus.TERMINATED)
    await family.refused("PUT", f"{family.child}/cancel")


async def test_everything_else_needs_the_key(family: Family) -> None:
    for method, path in (
        ("GET", "/projects"),
        ("PUT", "/projects/shop"),
        ("DELETE", "/projects/shop"),
        ("GET", "/projects/shop/versions"),
        ("POST", "/projects/shop/versions"),
        ("GET", "/container_repository_credentials"),
        ("POST", "/temporal_ui_links"),
    ):
        await family.refused(method, path)


async def test_the_token_of_a_missing_execution_is_good_for_nothing(
    api: Api, function: str
) -> None:
    headers = as_worker(OTHER_EXECUTION)
    for path in ("/projects/shop", f"{function}/invocations/inv-1"):
        assert_error(await api.get(path, headers=headers), *OUT_OF_SCOPE)
    own = f"{function}/invocations/inv-1/executions/{OTHER_EXECUTION}"
    assert (await api.get(own, headers=headers)).status_code == 404
    assert (await api.get(own, headers=USER)).status_code == 404
