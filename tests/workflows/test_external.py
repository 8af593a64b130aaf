"""Invocations whose workers can be ended only by the details that a server gave to them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.provisioning import ProvisioningActivities, WorkerAccess
from core.contract.functions import ExecutionSpec, FunctionSpec, ResourceSpec
from core.ids import ExecutionId, FunctionId, InvocationId
from core.messages import OpenRequest, WorkerExit, WorkerRef
from core.states import WorkerStatus
from provisioners.base import ProvisionerError
from provisioners.conformance import NoBundles, new_execution_id
from registry.database.engine import Registry
from registry.database.tables import Execution
from registry.queries.invocations import create_invocation
from registry.queries.projects import create_project
from registry.queries.token_secret import WorkerTokens
from registry.queries.versions import create_version
from registry.transitions.executions import open_execution
from registry.transitions.preparation import record_prepared
from tests.support.harness import (
    API_KEYS,
    STANDARD,
    ControlPlane,
    Json,
    eventually_true,
    function_spec,
    running_control_plane,
)
from tests.support.provisioners.external_requests import provisioner_at
from tests.support.provisioners.http_peer import Answer, Call, HttpPeer


class Workers:
    """What a provisioner server knows: workers that end when they are told to."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.ended: set[str] = set()
        self.worker_type = "TEST"
        self.answers_provision = threading.Event()
        self.answers_provision.set()
        self.instead: Answer | None = None
        """What `/provision` answers, although it has made the worker."""

    def __call__(self, call: Call) -> Answer:
        if call.verb == "prepare":
            details = {"type": "TEST", "identifier": call.body["function_name"]}
            return Answer(body={"prepared_function_details": details})
        if call.verb == "provision":
            name = call.body["execution_id"]
            if name not in self.ended:
                self.running.add(name)
            if not self.answers_provision.is_set():
                return Answer(hang_up=True)
            details = {"type": self.worker_type, "identifier": name, "logs_identifier": "l"}
            return self.instead or Answer(body={"worker_details": details})
        name = call.body["worker_details"]["identifier"]
        if call.verb == "terminate":
            self.end(name)
            return Answer()
        if call.verb == "check_status":
            status = "RUNNING" if name in self.running else "TERMINATED"
            return Answer(body={"worker_status": status})
        return Answer(body={"log_lines": ["a line"], "next_offset": None})

    def end(self, name: str) -> None:
        self.running.discard(name)
        self.ended.add(name)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def peer(workers: Workers) -> Iterator[HttpPeer]:
    with HttpPeer(workers) as peer:
        yield peer


@pytest.fixture
async def plane(
    registry: Registry, temporal_client: Client, task_queue: str, peer: HttpPeer
) -> AsyncIterator[ControlPlane]:
    external = provisioner_at(peer.url, log_patience_seconds=1)
    async with running_control_plane(
        registry, temporal_client, task_queue, provisioner=external
    ) as running:
        await running.deploy(STANDARD, function_spec("patient", timeout=600))
        yield running


def says(text: str, seen: Json) -> bool:
    return text in (seen["phase_detail"] or "")


async def test_ext_2_a_worker_of_an_unknown_type_is_ended_and_the_execution_fails(
    plane: ControlPlane, peer: HttpPeer, workers: Workers
) -> None:
    workers.worker_type = "KUBERNETES"
    path = await plane.invoke("standard")

    over = await plane.until_terminated(path)

    (execution,) = over["executions"]
    assert (over["phase"], execution["cause"]) == ("FAILED", "provisioning_failed")
    assert "'TEST' or 'AWS_ECS'" in execution["error_message"]
    assert execution["worker_details"] is None
    assert workers.ended == {execution["execution_id"]}
    assert workers.running == set()
    assert peer.count("terminate") == 1


async def test_ext_3_a_refusal_ends_the_execution_with_its_detail(
    plane: ControlPlane, peer: HttpPeer
) -> None:
    peer.script["provision"] = [Answer(status=400, body={"detail": "no room on this planet"})]
    path = await plane.invoke("standard")

    over = await plane.until_terminated(path)

    (execution,) = over["executions"]
    told = "The provisioner has refused /provision (Status code: 400): no room on this planet"
    assert execution["error_message"] == told
    assert peer.count("provision") == 1


UNCLEAR = {
    "401": (Answer(status=401, body={"detail": "who are you"}), "PROVISIONER_API_KEY"),
    "403": (Answer(status=403, body={"detail": "no"}), "PROVISIONER_API_KEY"),
    "407": (Answer(status=407, body={"detail": "a proxy"}), "(Status code: 407): a proxy"),
    "no detail": (Answer(status=404, raw=b"<html>"), "(Status code: 404): it gives no detail"),
    "unreadable": (Answer(raw=b"<html>"), "(Status code: 200) cannot be used: it is not JSON"),
}


@pytest.mark.parametrize(("answer", "told"), UNCLEAR.values(), ids=list(UNCLEAR))
async def test_ext_3_what_is_no_clear_refusal_is_asked_again_and_finds_the_worker(
    plane: ControlPlane, workers: Workers, answer: Answer, told: str
) -> None:
    """Each of these answers may hide a worker: another attempt might run beside it."""
    await plane.deploy(function_spec("retried", retries=3, timeout=600))
    workers.instead = answer
    path = await plane.invoke("retried")

    seen = await plane.until(path, lambda seen: says(told, seen))

    assert (seen["phase"], seen["invocation_status"]) == ("PROVISIONING", "RUNNING")
    assert seen["phase_detail"].startswith("attempt 1 of 4: the provisioner says: ")
    assert seen["phase_detail"].endswith("; tried again")
    (execution,) = seen["executions"]
    assert execution["worker_status"] == "PROVISIONING"
    assert workers.running == {execution["execution_id"]}
    workers.instead = None
    await plane.until_worker_runs(path)
    seen = await plane.until(path, lambda seen: seen["phase_detail"] == "attempt 1 of 4")
    assert workers.running == {execution["execution_id"]}
    await plane.call("PUT", f"{path}/cancel")
    over = await plane.until_terminated(path)
    assert [one["execution_id"] for one in over["executions"]] == [execution["execution_id"]]
    assert workers.running == set()


async def test_ext_3_a_worker_behind_unclear_answers_is_ended_after_the_timeout(
    plane: ControlPlane, workers: Workers
) -> None:
    await plane.deploy(function_spec("brief", retries=3, timeout=10))
    workers.instead = Answer(status=403, body={"detail": "API key is invalid"})
    path = await plane.invoke("brief")

    seen = await plane.until(path, lambda seen: says("could not be ended so far", seen))

    assert (seen["phase"], seen["invocation_status"]) == ("CANCELLING", "RUNNING")
    assert "does not accept our PROVISIONER_API_KEY" in seen["phase_detail"]
    (name,) = workers.running
    workers.instead = None
    over = await plane.until_terminated(path, seconds=60)
    (execution,) = over["executions"]
    assert (over["phase"], execution["cause"]) == ("TIMED_OUT", "timed_out")
    assert (workers.running, workers.ended) == (set(), {name})


@pytest.mark.parametrize("which", ["403", "no detail"])
async def test_ext_3_a_preparation_waits_until_the_server_answers_clearly(
    plane: ControlPlane, peer: HttpPeer, workers: Workers, which: str
) -> None:
    """A wrong key or address, put right, has cost no function and no call."""
    answer, told = UNCLEAR[which]

    def behave(call: Call) -> Answer:
        return answer if call.verb == "prepare" else workers(call)

    peer.behave = behave
    await plane.deploy(STANDARD)
    early = await plane.invoke("standard")
    for path in (early, await plane.invoke("standard")):
        seen = await plane.until(path, lambda seen: says(told, seen))
        assert seen["phase"] == "QUEUED"
        assert seen["phase_detail"].startswith("the function is being prepared: the provisioner")
    (function,) = (await plane.get(plane.version_path))["functions"]
    assert function["preparation"]["status"] == "PENDING"
    assert told in function["preparation"]["error"]

    peer.behave = workers
    execution = await plane.until_worker_runs(early)

    (function,) = (await plane.get(plane.version_path))["functions"]
    assert function["preparation"] == {"status": "READY", "error": None}
    workers.end(execution.id)
    await plane.until_terminated(early)


async def test_ext_3_retry_after_is_the_pause_before_the_next_try(
    plane: ControlPlane, peer: HttpPeer, workers: Workers
) -> None:
    peer.script["provision"] = [Answer(status=429, headers={"Retry-After": "3"})]
    path = await plane.invoke("patient")
    execution = await plane.until_worker_runs(path)

    first, second = peer.calls_of("provision")
    assert second.time - first.time >= 2.9
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    workers.end(execution.id)
    await plane.until_terminated(path)


async def test_a_lost_worker_is_found_again_and_ended(
    plane: ControlPlane, peer: HttpPeer, workers: Workers
) -> None:
    """The server makes the worker, but its answers do not arrive until long after the cancel."""
    workers.answers_provision.clear()
    path = await plane.invoke("patient")
    await eventually_true(lambda: peer.count("provision") > 1)
    await plane.call("PUT", f"{path}/cancel")

    seen = await plane.until(path, lambda seen: says("could not be ended so far", seen))

    assert (seen["phase"], seen["invocation_status"]) == ("CANCELLING", "RUNNING")
    assert len(workers.running) == 1
    workers.answers_provision.set()
    over = await plane.until_terminated(path, seconds=60)
    assert over["phase"] == "CANCELLED"
    assert workers.running == set()
    (execution,) = over["executions"]
    assert workers.ended == {execution["execution_id"]}
    assert execution["worker_details"]["identifier"] == execution["execution_id"]
    logs = await plane.get(f"{path}/executions/{execution['execution_id']}/logs")
    assert logs["log_lines"] == ["a line"]


async def test_what_the_server_denies_to_have_made_is_gone(
    plane: ControlPlane, peer: HttpPeer, workers: Workers
) -> None:
    """But not what it only refuses to talk about."""
    workers.answers_provision.clear()
    path = await plane.invoke("patient")
    await eventually_true(lambda: peer.count("provision") > 1)
    await plane.call("PUT", f"{path}/cancel")
    await plane.until(path, lambda seen: says("could not be ended so far", seen))

    peer.behave = lambda _: Answer(status=403, body={"detail": "API key is invalid"})
    seen = await plane.until(path, lambda seen: says("API key is invalid", seen), seconds=60)
    assert seen["invocation_status"] == "RUNNING"
    peer.behave = lambda _: Answer(status=404, body={"detail": "there is no such execution"})

    over = await plane.until_terminated(path, seconds=60)
    assert over["phase"] == "CANCELLED"
    assert peer.count("terminate") == 0


async def test_logs_that_cannot_be_read_do_not_keep_an_invocation_open(
    plane: ControlPlane, peer: HttpPeer, workers: Workers
) -> None:
    def behave(call: Call) -> Answer:
        if call.verb == "get_logs":
            return Answer(status=500, body={"detail": "the disk is gone"})
        return workers(call)

    peer.behave = behave
    path = await plane.invoke("standard")
    execution = await plane.until_worker_runs(path)
    workers.end(execution.id)

    await plane.until_terminated(path, seconds=60)

    (line,) = (await plane.get(f"{execution.path}/logs"))["log_lines"]
    assert line.startswith("[control-plane: logs could not be read: ")
    assert "the disk is gone" in line


# The guards between an ending execution and a late call, activity by activity.


@pytest.fixture
async def execution(registry: Registry) -> WorkerRef:
    """An execution that is about to get its worker."""
    async with registry.transaction() as session:
        await create_project(session, name="p")
        version = await create_version(
            session,
            project_name="p",
            default_docker_image="i",
            functions=[
                FunctionSpec(
                    function_name="f",
                    resource_spec=ResourceSpec(virtual_cpus=1, memory_gbs=1, max_concurrency=9),
                    execution_spec=ExecutionSpec(max_retries=0, timeout_seconds=60),
                )
            ],
            default_pool="external",
        )
    details = {"type": "TEST", "identifier": "f"}
    async with registry.transaction() as session:
        await record_prepared(session, FunctionId(version.functions[0].id), details=details)
        created = await create_invocation(
            session,
            project_name="p",
            version_id=None,
            function_name="f",
            input_="",
            parent=None,
        )
    execution_id = new_execution_id()
    async with registry.transaction() as session:
        request = OpenRequest(
            invocation_id=InvocationId(created.invocation.id), execution_id=execution_id
        )
        await open_execution(session, request)
    return WorkerRef(execution_id=execution_id)


@pytest.fixture
async def activities(registry: Registry, peer: HttpPeer) -> AsyncIterator[ProvisioningActivities]:
    external = provisioner_at(peer.url, timeout=5)
    await external.start("test", NoBundles())
    access = WorkerAccess(api_url="http://localhost:5000", tokens=WorkerTokens(registry, API_KEYS))
    yield ProvisioningActivities(external, registry, access, grace_seconds=1)
    await external.close()


async def row_of(registry: Registry, execution_id: ExecutionId) -> Execution:
    async with registry.autocommit() as session:
        found = await session.get(Execution, execution_id)
        assert found is not None
        return found


async def terminate(activities: ProvisioningActivities, ref: WorkerRef) -> WorkerExit:
    return await ActivityEnvironment().run(activities.terminate_worker, ref)


async def provision(activities: ProvisioningActivities, ref: WorkerRef) -> None:
    await ActivityEnvironment().run(activities.provision_worker, ref)


async def test_without_a_call_there_is_no_worker_and_there_will_be_none(
    registry: Registry, activities: ProvisioningActivities, execution: WorkerRef, peer: HttpPeer
) -> None:
    ended = await terminate(activities, execution)
    await provision(activities, execution)

    assert ended == WorkerExit(detail="no worker was made")
    assert await terminate(activities, execution) == ended
    assert peer.calls == []
    row = await row_of(registry, execution.execution_id)
    assert row.worker_status is WorkerStatus.PROVISIONING
    assert row.provision_called_at is None


async def test_the_call_is_noted_before_it_is_made_and_only_the_first(
    registry: Registry,
    activities: ProvisioningActivities,
    execution: WorkerRef,
    workers: Workers,
) -> None:
    workers.answers_provision.clear()
    noted = []
    for _ in range(2):
        with pytest.raises(ProvisionerError):
            await provision(activities, execution)
        noted.append((await row_of(registry, execution.execution_id)).provision_called_at)

    assert noted[0] is not None
    assert noted[0] == noted[1]


async def test_a_worker_that_was_found_again_is_recorded_before_it_is_ended(
    registry: Registry,
    activities: ProvisioningActivities,
    execution: WorkerRef,
    peer: HttpPeer,
    workers: Workers,
) -> None:
    """So that a crash in between needs no further `/provision`."""
    workers.answers_provision.clear()
    with pytest.raises(ProvisionerError):
        await provision(activities, execution)
    workers.answers_provision.set()
    peer.script["terminate"] = [Answer(status=500)]

    with pytest.raises(ProvisionerError):
        await terminate(activities, execution)
    row = await row_of(registry, execution.execution_id)
    await provision(activities, execution)
    await terminate(activities, execution)

    assert row.worker_details is not None
    assert row.worker_details["identifier"] == execution.execution_id
    assert peer.count("provision") == 2
    assert workers.ended == {execution.execution_id}


async def test_two_that_end_and_provision_at_once_leave_no_worker(
    activities: ProvisioningActivities, execution: WorkerRef, workers: Workers
) -> None:
    """Whichever comes first; then the workflow watches what it ends."""
    await asyncio.gather(provision(activities, execution), terminate(activities, execution))

    assert workers.running == set()
