"""What the workflow of an invocation is started with, from its rows."""

from core.ids import InvocationId, VersionId
from core.messages import InvocationStart
from core.retries import RetryPauses
from registry.database.tables import Function, Invocation
from registry.queries.paths import FunctionContext


def start_of(context: FunctionContext, invocation: Invocation) -> InvocationStart:
    """Give the facts that start an invocation's workflow, the first time or again."""
    return InvocationStart(
        invocation_id=InvocationId(invocation.id),
        project_name=context.project.name,
        version_id=VersionId(context.version.id),
        function_name=context.function.name,
        pool=context.pool,
        created_at=invocation.created_at,
        timeout_seconds=context.function.timeout_seconds,
        max_retries=context.function.max_retries,
        pauses=pauses_of(context.function),
    )


def pauses_of(function: Function) -> RetryPauses:
    """Give a function's pauses between attempts."""
    return RetryPauses() if function.retry_spec is None else RetryPauses(**function.retry_spec)
