"""Parameters of requests that several resources share."""

from typing import Annotated, Final

from fastapi import Depends, Header, Path, Query

from core.contract.base import CleanText
from core.contract.versions import parse_version_reference
from core.ids import ExecutionId, InvocationId
from registry.queries.paths import ExecutionPath, FunctionPath, InvocationPath, VersionPath

ProjectName = Annotated[CleanText, Path(description="The project's name")]
VersionReference = Annotated[
    CleanText,
    Path(description="A version's id, or `latest` (in any letter case) for the newest"),
]
FunctionName = Annotated[CleanText, Path(description="The function's name")]
InvocationIdText = Annotated[CleanText, Path(description="The invocation's id")]
ExecutionIdText = Annotated[CleanText, Path(description="The execution's id")]

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        min_length=1,
        max_length=255,
        pattern="^[ -~]*$",
        description=(
            "Names this request among those to the function, in printable ASCII: repeated with the "
            "same key and body, it creates nothing"
        ),
    ),
]


MaxResults = Annotated[
    int | None, Query(ge=0, description="Entries at most; 50 if absent or larger")
]
InitialOffset = Annotated[CleanText | None, Query(description="`next_offset` of a page")]


async def _version_path(project_name: ProjectName, version_id: VersionReference) -> VersionPath:
    return VersionPath(project_name=project_name, version_id=parse_version_reference(version_id))


async def _function_path(
    project_name: ProjectName, version_id: VersionReference, function_name: FunctionName
) -> FunctionPath:
    return FunctionPath(
        project_name=project_name,
        version_id=parse_version_reference(version_id),
        function_name=function_name,
    )


async def _invocation_path(
    function: Annotated[FunctionPath, Depends(_function_path)],
    invocation_id: InvocationIdText,
) -> InvocationPath:
    return InvocationPath(
        project_name=function.project_name,
        version_id=function.version_id,
        function_name=function.function_name,
        invocation_id=InvocationId(invocation_id),
    )


async def _execution_path(
    function: Annotated[FunctionPath, Depends(_function_path)],
    invocation_id: InvocationIdText,
    execution_id: ExecutionIdText,
) -> ExecutionPath:
    return ExecutionPath(
        project_name=function.project_name,
        version_id=function.version_id,
        function_name=function.function_name,
        invocation_id=InvocationId(invocation_id),
        execution_id=ExecutionId(execution_id),
    )


VersionPathDep = Annotated[VersionPath, Depends(_version_path)]
FunctionPathDep = Annotated[FunctionPath, Depends(_function_path)]
InvocationPathDep = Annotated[InvocationPath, Depends(_invocation_path)]
ExecutionPathDep = Annotated[ExecutionPath, Depends(_execution_path)]
