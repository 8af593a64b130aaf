"""Versions and their functions, as the contract shows them."""

from api.views.shared import epoch, function_facts
from core.contract.functions import FunctionInfoForVersion, Preparation, RetrySpec
from core.contract.versions import VersionInfo, VersionsListForProject, VersionSummary
from registry.database.tables import Function
from registry.queries.versions import VersionDetails, VersionList


def version_info(details: VersionDetails) -> VersionInfo:
    """Show a version with its functions."""
    return VersionInfo(
        project_name=details.project.name,
        version_id=details.version.id,
        creation_time=epoch(details.version.created_at),
        functions=[
            _function_info(function, default_pool=details.version.default_pool)
            for function in details.functions
        ],
    )


def versions_list(details: VersionList) -> VersionsListForProject:
    """Show the versions of a project."""
    return VersionsListForProject(
        project_name=details.project.name,
        versions=[
            VersionSummary(version_id=version.id, creation_time=epoch(version.created_at))
            for version in details.versions
        ],
    )


def _function_info(function: Function, *, default_pool: str) -> FunctionInfoForVersion:
    return FunctionInfoForVersion(
        **function_facts(function),
        function_name=function.name,
        docker_image=function.docker_image,
        retry_spec=None if function.retry_spec is None else RetrySpec(**function.retry_spec),
        pool=function.pool or default_pool,
        preparation=Preparation(
            status=function.preparation_status, error=function.preparation_error
        ),
    )
