"""Provisioner calls. They run on the queue of one provisioner kind, beside its credentials.

Each may be run again at any point: the registry says how far an earlier try came, and the
provisioner finds its own earlier work by the execution id.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog
from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.heartbeat import heartbeating
from activities.outcomes import OutcomeFollower
from activities.records import record_of
from core.contract.workers import PreparedFunctionDetails, WorkerDetails
from core.ids import ExecutionId, FunctionId, InvocationId, VersionId
from core.messages import FunctionRef, WakeList, WorkerExit, WorkerRef
from core.states import WorkerStatus
from provisioners.base import (
    Exited,
    FunctionToPrepare,
    Provisioner,
    ProvisionerError,
    ResourceSpec,
    Unknown,
    UnrecoverableProvisioningError,
    WorkerRecord,
    WorkerRequest,
)
from registry import explanations
from registry.changes import Changes
from registry.database.engine import Registry
from registry.database.tables import Function
from registry.queries import workers
from registry.queries.logs import LogTail, append_lines, read_tail
from registry.queries.paths import FunctionContext
from registry.queries.token_secret import WorkerTokens
from registry.queries.workers import ExecutionContext
from registry.transitions import preparation

logger = structlog.get_logger(__name__)

UNRECOVERABLE = "UnrecoverableProvisioning"
"""Type of the failure that ends an attempt at once."""
_MAX_ERROR_LENGTH = 2_000
_MAX_SHOWN_LENGTH = 500
_DEFAULT_WATCH_INTERVAL = timedelta(seconds=10)
_PAUSE_WHEN_UNKNOWN = 1.0
"""Seconds until a provisioner that could not tell is asked again."""


@dataclass(frozen=True, kw_only=True)
class WorkerAccess:
    """What workers are told about the API."""

    api_url: str
    tokens: WorkerTokens


class ProvisioningActivities:
    """The provisioner, as workflows call it.

    Args:
        provisioner: makes the workers.
        registry: Postgres.
        access: what workers are told about the API.
        grace_seconds: time between the polite and the hard end of a worker.
        changes: needed for a provisioner that follows outcomes.
    """

    def __init__(
        self,
        provisioner: Provisioner,
        registry: Registry,
        access: WorkerAccess,
        *,
        grace_seconds: float,
        changes: Changes | None = None,
    ) -> None:
        self._provisioner = provisioner
        self._registry = registry
        self._access = access
        self._grace_seconds = grace_seconds
        self._outcomes = OutcomeFollower(provisioner, registry, changes)

    @activity.defn
    async def prepare_function(self, ref: FunctionRef) -> WakeList:
        """Prepare a function and mark it READY; returns the waiting invocations to wake."""
        async with heartbeating():
            async with self._registry.autocommit() as session:
                context = await preparation.get_function_context(session, ref.function_id)
            if context is None:
                return WakeList()
            request = FunctionToPrepare(
                project_name=context.project.name,
                version_id=VersionId(context.version.id),
                function_name=context.function.name,
                docker_image=context.function.docker_image,
                resource_spec=_resources_of(context.function),
            )
            with _failures_for_temporal(final=True):
                try:
                    prepared = await self._provisioner.prepare(request)
                    details = _checked(PreparedFunctionDetails, prepared.details)
                except UnrecoverableProvisioningError:
                    raise
                except ProvisionerError as error:
                    await self._show_preparation_trouble(context, error)
                    raise
            async with self._registry.transaction() as session:
                wake = await preparation.record_prepared(session, ref.function_id, details=details)
            return WakeList(wake=wake)

    async def _show_preparation_trouble(
        self, context: FunctionContext, error: ProvisionerError
    ) -> None:
        trouble = explanations.tried_again(_first_line_of(error))
        if trouble != context.function.preparation_error:
            async with self._registry.transaction() as session:
                await preparation.record_preparation_trouble(
                    session, FunctionId(context.function.id), trouble=trouble
                )

    @activity.defn
    async def provision_worker(self, ref: WorkerRef) -> None:
        """Create or adopt the worker of an execution, and note it in the registry."""
        async with heartbeating():
            context = await self._load(ref.execution_id)
            if context.execution.worker_status is not WorkerStatus.PROVISIONING:
                return
            call = asyncio.create_task(self._provision(context))
            try:
                await asyncio.shield(call)
            except asyncio.CancelledError:
                # A worker that is in no row is worse than a late answer: the call that is under
                # way is finished, and the workflow then ends the worker.
                await call

    async def _provision(self, context: ExecutionContext) -> None:
        execution_id = ExecutionId(context.execution.id)
        if not self._provisioner.terminates_by_id:
            async with self._registry.autocommit() as session:
                if not await workers.record_provision_call(session, execution_id):
                    return
        with _failures_for_temporal(final=True):
            try:
                record = await self._provisioner.provision(await self._worker_request(context))
                try:
                    details = _checked(WorkerDetails, record.details)
                except UnrecoverableProvisioningError:
                    await self._provisioner.terminate(
                        record.execution_id, record, grace=self._grace_seconds
                    )
                    raise
            except UnrecoverableProvisioningError:
                with suppress(ProvisionerError):
                    await self._provisioner.forget(execution_id)
                raise
            except ProvisionerError as error:
                trouble = explanations.tried_again(_first_line_of(error))
                await self._show_trouble(execution_id, trouble)
                raise
        async with self._registry.autocommit() as session:
            await workers.record_worker(
                session, record.execution_id, state=record.state, details=details
            )
        if activity.info().attempt > 1:
            await self._show_trouble(execution_id, None)

    async def _show_trouble(self, execution_id: ExecutionId, trouble: str | None) -> None:
        async with self._registry.autocommit() as session:
            await workers.record_provisioning_trouble(session, execution_id, trouble=trouble)

    @activity.defn
    async def watch_worker(self, ref: WorkerRef) -> WorkerExit:
        """Copy the worker's output until the worker is gone; returns how it ended."""
        async with heartbeating():
            context = await self._load(ref.execution_id)
            recorded = _recorded_exit(context)
            worker = record_of(context.execution)
            if recorded is not None or worker is None:
                return recorded or WorkerExit(
                    detail="no worker was recorded", worker_recorded=False
                )
            tail = LogTail(0, "")
            if activity.info().attempt > 1:
                # At the first attempt there are none, as a rule. After a workflow that was started
                # again there may be: the first ones that are added find that out.
                async with self._registry.autocommit() as session:
                    tail = await read_tail(session, ref.execution_id)
            async with self._outcomes.following(ref.execution_id):
                with _failures_for_temporal():
                    return await self._watch(worker, tail)

    async def _watch(self, worker: WorkerRecord, tail: LogTail) -> WorkerExit:
        interval = (activity.info().heartbeat_timeout or _DEFAULT_WATCH_INTERVAL).total_seconds()
        while True:
            seen = await self._provisioner.wait(worker, timeout=interval)
            if isinstance(seen, Unknown):
                logger.warning(
                    "worker_state_unknown", execution_id=worker.execution_id, detail=seen.detail
                )
                await asyncio.sleep(_PAUSE_WHEN_UNKNOWN)
                continue
            tail = await self._copy_logs(worker, tail, ended=isinstance(seen, Exited))
            if isinstance(seen, Exited):
                worker_exit = _worker_exit(seen)
                async with self._registry.autocommit() as session:
                    await workers.record_worker_exit(
                        session,
                        worker.execution_id,
                        worker_exit=worker_exit.model_dump(mode="json"),
                    )
                await self._provisioner.forget(worker.execution_id)
                return worker_exit

    async def _copy_logs(self, worker: WorkerRecord, tail: LogTail, *, ended: bool) -> LogTail:
        while not tail.complete:
            page = await self._provisioner.read_logs(worker, offset=tail.next_offset, ended=ended)
            if not page.lines and page.next_offset == tail.next_offset and not page.complete:
                return tail
            async with self._registry.transaction() as session:
                tail = await append_lines(
                    session,
                    worker.execution_id,
                    tail=tail,
                    lines=page.lines,
                    next_offset=page.next_offset,
                    complete=page.complete,
                )
        return tail

    @activity.defn
    async def terminate_worker(self, ref: WorkerRef) -> WorkerExit:
        """End the worker of an execution; returns only when the provisioner confirms the end."""
        async with heartbeating():
            context = await self._load(ref.execution_id)
            recorded = _recorded_exit(context)
            if recorded is not None:
                return recorded
            async with self._outcomes.following(ref.execution_id):
                with _failures_for_temporal():
                    try:
                        return await self._terminate(context)
                    except ProvisionerError as error:
                        async with self._registry.autocommit() as session:
                            await workers.record_termination_trouble(
                                session, ref.execution_id, trouble=str(error)[:_MAX_ERROR_LENGTH]
                            )
                        raise

    async def _terminate(self, context: ExecutionContext) -> WorkerExit:
        execution_id = ExecutionId(context.execution.id)
        worker = record_of(context.execution)
        if worker is None and not self._provisioner.terminates_by_id:
            never = WorkerExit(detail="no worker was made")
            async with self._registry.autocommit() as session:
                if await workers.forbid_provisioning(
                    session, execution_id, worker_exit=never.model_dump(mode="json")
                ):
                    return never
            worker = await self._find_again(context)
            if worker is None:
                return never
        return _worker_exit(
            await self._provisioner.terminate(execution_id, worker, grace=self._grace_seconds)
        )

    async def _find_again(self, context: ExecutionContext) -> WorkerRecord | None:
        """Get the record of a worker whose `provision` was called without a known end."""
        try:
            record = await self._provisioner.provision(await self._worker_request(context))
        except UnrecoverableProvisioningError:
            return None
        # Details that clients cannot read are not recorded; they still serve to end the worker.
        with suppress(UnrecoverableProvisioningError):
            details = _checked(WorkerDetails, record.details)
            async with self._registry.autocommit() as session:
                await workers.record_worker(
                    session, record.execution_id, state=record.state, details=details
                )
        return record

    async def _load(self, execution_id: ExecutionId) -> ExecutionContext:
        async with self._registry.autocommit() as session:
            context = await workers.get_execution_context(session, execution_id)
        if context is None:
            raise ApplicationError(
                f"execution {execution_id} was deleted", type="ExecutionDeleted", non_retryable=True
            )
        return context

    async def _worker_request(self, context: ExecutionContext) -> WorkerRequest:
        execution_id = ExecutionId(context.execution.id)
        facts = {
            "PROJECT_NAME": context.project.name,
            "VERSION_ID": context.version.id,
            "FUNCTION_NAME": context.function.name,
            "INVOCATION_ID": context.execution.invocation_id,
            "EXECUTION_ID": execution_id,
            "API_URL": self._access.api_url.rstrip("/"),
            "API_KEY": await self._access.tokens.derive(execution_id),
        }
        return WorkerRequest(
            project_name=context.project.name,
            version_id=VersionId(context.version.id),
            function_name=context.function.name,
            invocation_id=InvocationId(context.execution.invocation_id),
            execution_id=execution_id,
            attempt=context.execution.attempt,
            docker_image=context.function.docker_image,
            resource_spec=_resources_of(context.function),
            prepared_details=context.function.prepared_details,
            # MULTINODE_ is what workers of an earlier generation of this API read.
            environment={
                f"{prefix}_{name}": value
                for prefix in ("CONTROL_PLANE", "MULTINODE")
                for name, value in facts.items()
            },
        )


def _checked(shape: type[BaseModel], details: dict[str, str] | None) -> dict[str, str] | None:
    """Refuse details that contract clients could not read: their enums are closed."""
    if details is None:
        return None
    try:
        shape.model_validate(details)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = f"the provisioner's answer does not fit: {field}: {problem['msg']}"
        raise UnrecoverableProvisioningError(message) from error
    return details


def _first_line_of(error: ProvisionerError) -> str:
    return str(error).partition("\n")[0][:_MAX_SHOWN_LENGTH]


def _resources_of(function: Function) -> ResourceSpec:
    return ResourceSpec(
        virtual_cpus=function.virtual_cpus,
        memory_gbs=function.memory_gbs,
        max_concurrency=function.max_concurrency,
    )


def _recorded_exit(context: ExecutionContext) -> WorkerExit | None:
    recorded = (context.execution.worker or {}).get("exit")
    return None if recorded is None else WorkerExit.model_validate(recorded)


def _worker_exit(exited: Exited) -> WorkerExit:
    return WorkerExit(exit_code=exited.exit_code, cause=exited.cause, detail=exited.detail)


@contextmanager
def _failures_for_temporal(*, final: bool = False) -> Iterator[None]:
    """Tell Temporal what a provisioner's error means for the next try.

    Args:
        final: whether `UnrecoverableProvisioningError` ends the tries. Only where nothing is left
            behind then: the end of a worker is never given up.
    """
    try:
        yield
    except ProvisionerError as error:
        if final and isinstance(error, UnrecoverableProvisioningError):
            raise ApplicationError(
                str(error)[:_MAX_ERROR_LENGTH],
                type=UNRECOVERABLE,
                non_retryable=True,
                # Mostly a user's mistake, which the user is shown: no traceback in the operator's
                # log.
                category=ApplicationErrorCategory.BENIGN,
            ) from error
        if error.retry_after is None:
            raise
        raise ApplicationError(
            str(error)[:_MAX_ERROR_LENGTH],
            type=type(error).__name__,
            next_retry_delay=timedelta(seconds=error.retry_after),
        ) from error
