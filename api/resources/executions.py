"""Routes for executions: what workers report, and reading."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query

from api.access.authentication import AuthenticatedRoute, PrincipalDep
from api.access.authorisation import OwnExecution, authorise_reading_execution
from api.requests.context import ContextDep
from api.requests.errors import responses
from api.requests.parameters import ExecutionPathDep
from api.views.executions import execution_info, execution_logs
from core.contract.base import CleanText
from core.contract.executions import (
    ExecutionFinalResult,
    ExecutionInfo,
    ExecutionLogs,
    ExecutionProgress,
    ExecutionTemporaryResult,
)
from core.contract.paging import MAX_LOG_LINES_PER_PAGE, page_size, parse_log_offset
from core.errors import (
    ExecutionDoesNotExistError,
    ExecutionHasAlreadyFinishedError,
    ExecutionHasAlreadyStartedError,
    ExecutionHasNotStartedError,
    ExecutionIsAlreadyTerminatedError,
    FunctionDoesNotExistError,
    InvocationDoesNotExistError,
    OffsetIsInvalidError,
    ProjectDoesNotExistError,
    VersionDoesNotExistError,
)
from registry.queries import executions
from registry.queries.logs import find_log_place, read_log
from registry.transitions import reports

router = APIRouter(
    prefix=(
        "/projects/{project_name}/versions/{version_id}/functions/{function_name}"
        "/invocations/{invocation_id}/executions/{execution_id}"
    ),
    tags=["executions"],
    route_class=AuthenticatedRoute,
    dependencies=[OwnExecution],
)

_MISSING = (
    ProjectDoesNotExistError,
    VersionDoesNotExistError,
    FunctionDoesNotExistError,
    InvocationDoesNotExistError,
    ExecutionDoesNotExistError,
)
MAX_EPOCH_SECONDS: Final = 253_402_300_799
"""The end of the year 9999: the last second that a timestamp of Python can be in."""

_NOT_RUNNING = (
    ExecutionHasNotStartedError,
    ExecutionHasAlreadyFinishedError,
    ExecutionIsAlreadyTerminatedError,
)


@router.put(
    "/start",
    responses=responses(
        *_MISSING, ExecutionHasAlreadyStartedError, ExecutionIsAlreadyTerminatedError
    ),
)
async def start_execution(path: ExecutionPathDep, context: ContextDep) -> ExecutionInfo:
    """A worker says that it has started."""
    async with context.registry.autocommit() as session:
        started = await reports.start_execution(session, path)
        return execution_info(started, context.links)


@router.put("/update", responses=responses(*_MISSING, *_NOT_RUNNING, with_body=True))
async def update_execution(
    path: ExecutionPathDep, result: ExecutionTemporaryResult, context: ContextDep
) -> ExecutionInfo:
    """A worker replaces the output while it runs."""
    async with context.registry.autocommit() as session:
        updated = await reports.update_execution(session, path, latest_output=result.latest_output)
        return execution_info(updated, context.links)


@router.put("/progress", responses=responses(*_MISSING, *_NOT_RUNNING, with_body=True))
async def report_progress(
    path: ExecutionPathDep, report: ExecutionProgress, context: ContextDep
) -> ExecutionInfo:
    """A worker says how far it is, in an object of its own making."""
    async with context.registry.autocommit() as session:
        reported = await reports.report_progress(session, path, progress=report.progress)
        return execution_info(reported, context.links)


@router.put("/finish", responses=responses(*_MISSING, *_NOT_RUNNING, with_body=True))
async def finish_execution(
    path: ExecutionPathDep, result: ExecutionFinalResult, context: ContextDep
) -> ExecutionInfo:
    """A worker reports its outcome. FAILED needs an error message; the others must have none."""
    async with context.registry.autocommit() as session:
        finished = await reports.finish_execution(
            session,
            path,
            outcome=result.outcome,
            final_output=result.final_output,
            error_message=result.error_message,
        )
        return execution_info(finished, context.links)


@router.get("", responses=responses(*_MISSING))
async def get_execution(
    path: ExecutionPathDep, context: ContextDep, principal: PrincipalDep
) -> ExecutionInfo:
    """Give an execution with all that its worker needs to know."""
    async with context.registry.autocommit() as session:
        await authorise_reading_execution(session, principal)
        return execution_info(await executions.get_execution(session, path), context.links)


@router.get("/logs", responses=responses(OffsetIsInvalidError, *_MISSING))
async def get_execution_logs(
    path: ExecutionPathDep,
    context: ContextDep,
    principal: PrincipalDep,
    *,
    max_lines: Annotated[
        int | None, Query(ge=0, description="Lines at most; 250 if absent or larger")
    ] = None,
    initial_offset: Annotated[
        CleanText | None, Query(description="`next_offset` of a page; absent for the beginning")
    ] = None,
    since: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_EPOCH_SECONDS,
            allow_inf_nan=False,
            description=(
                "Epoch seconds: leave out the lines that were copied from the worker before. "
                "Lines are copied in groups, soon after they were written"
            ),
        ),
    ] = None,
    tail: Annotated[
        int | None, Query(ge=0, description="Begin so many lines before the present end")
    ] = None,
) -> ExecutionLogs:
    """Give a page of an execution's output.

    While more lines may come, `next_offset` tells where to go on, also after a page without lines;
    it is null once everything has been read. Of several places to begin at, the last one counts.
    """
    offset = 0 if initial_offset is None else parse_log_offset(initial_offset)
    async with context.registry.autocommit() as session:
        await authorise_reading_execution(session, principal)
        found = await executions.get_execution(session, path)
        if since is not None or tail is not None:
            place = await find_log_place(
                session,
                found.execution,
                since=None if since is None else datetime.fromtimestamp(since, UTC),
                tail=tail,
            )
            offset = max(offset, place)
        page = await read_log(
            session,
            found.execution,
            offset=offset,
            max_lines=page_size(max_lines, maximum=MAX_LOG_LINES_PER_PAGE),
        )
        return execution_logs(found, page)
