"""Versions whose functions are prepared."""

from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from tests.replay.cases.runs import (
    PREPARATIONS,
    Recorded,
    invocation_id_of,
    over,
    preparation_of,
    run_of,
    until_closed,
)
from tests.support.harness import STANDARD, ControlPlane, eventually, function_spec


async def preparation_pending(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_prepare.clear()
    plane.provisioner.prepare_errors.append(ProvisionerError("not at home"))
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    plane.provisioner.may_prepare.set()
    await (await plane.until_worker_runs(path)).play("SUCCEEDED")
    (execution,) = (await over(plane, path, phase="SUCCEEDED"))["executions"]
    return {
        "woken-when-prepared": run_of(plane, path, execution),
        f"{PREPARATIONS}/pending-then-ready": preparation_of(plane),
    }


async def preparation_in_a_named_pool(plane: ControlPlane) -> Recorded:
    await plane.deploy({**STANDARD, "pool": "scripted"})
    await plane.until(plane.version_path, lambda v: v["functions"][0]["function_status"] == "READY")
    return {f"{PREPARATIONS}/in-a-named-pool": preparation_of(plane)}


async def preparation_failed(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_prepare.clear()
    plane.provisioner.prepare_errors.append(UnrecoverableProvisioningError("no such image"))
    await plane.deploy(STANDARD)
    path = await plane.invoke("standard")
    await plane.until(path, lambda s: "prepared" in (s["phase_detail"] or ""))
    plane.provisioner.may_prepare.set()
    await over(plane, path, phase="FAILED")
    return {
        "woken-when-unpreparable": plane.temporal.get_workflow_handle(invocation_id_of(path)),
        f"{PREPARATIONS}/failed": preparation_of(plane),
    }


async def preparation_of_many(plane: ControlPlane) -> Recorded:
    """More functions than are prepared at once."""
    await plane.deploy(*(function_spec(f"function-{number}") for number in range(21)))
    await plane.until(
        plane.version_path,
        lambda v: all(f["function_status"] == "READY" for f in v["functions"]),
    )
    return {f"{PREPARATIONS}/many-functions": preparation_of(plane)}


async def preparation_cancelled_by_hand(plane: ControlPlane) -> Recorded:
    plane.provisioner.may_prepare.clear()
    await plane.deploy(STANDARD)
    handle = preparation_of(plane)

    async def activities() -> int:
        return len((await handle.describe()).raw_description.pending_activities)

    await eventually(activities, bool)
    await handle.cancel()
    await until_closed(handle)
    plane.provisioner.may_prepare.set()
    return {f"{PREPARATIONS}/cancelled-by-hand": handle}
