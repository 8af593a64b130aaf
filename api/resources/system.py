"""Routes that belong to no resource."""

from fastapi import APIRouter

from api.access.authentication import AuthenticatedRoute, PublicRoute
from api.access.authorisation import RootOnly
from api.requests.context import ContextDep
from api.requests.errors import responses
from core.contract.system import (
    ContainerRepositoryCredentials,
    HealthStatus,
    TemporalUiLink,
    TemporalUiLinkDefinition,
)
from core.errors import ContainerRepositoryIsNotConfiguredError, TemporalUiIsNotConfiguredError

public_router = APIRouter(tags=["system"], route_class=PublicRoute)
router = APIRouter(tags=["system"], route_class=AuthenticatedRoute)


@public_router.get("/")
async def check_health() -> HealthStatus:
    """Say that this process answers. Needs no key, and asks neither Postgres nor Temporal."""
    return HealthStatus(status="healthy")


@router.get(
    "/container_repository_credentials",
    dependencies=[RootOnly],
    responses=responses(ContainerRepositoryIsNotConfiguredError),
)
async def get_container_repository_credentials(
    context: ContextDep,
) -> ContainerRepositoryCredentials:
    """Say where to push the images of new versions."""
    settings = context.api_settings
    name = settings.container_repository_name
    user = settings.container_repository_user
    password = settings.container_repository_password
    endpoint = settings.container_repository_endpoint
    if name is None or user is None or password is None or endpoint is None:
        raise _not_configured(NAME=name, USER=user, PASSWORD=password, ENDPOINT=endpoint)
    return ContainerRepositoryCredentials(
        repository_name=name,
        username=user,
        password=password.get_secret_value(),
        endpoint_url=endpoint,
    )


@router.post(
    "/temporal_ui_links",
    dependencies=[RootOnly],
    responses=responses(TemporalUiIsNotConfiguredError),
)
async def create_temporal_ui_link(
    context: ContextDep, definition: TemporalUiLinkDefinition
) -> TemporalUiLink:
    """Make an address that opens Temporal's web UI in a browser, with a login if it needs one."""
    url = context.links.opening(definition.invocation_id)
    if url is None:
        raise TemporalUiIsNotConfiguredError
    return TemporalUiLink(url=url)


def _not_configured(**settings: object) -> ContainerRepositoryIsNotConfiguredError:
    """Name what is missing, if it is not all: only the operator can mend that."""
    missing = [name for name, value in settings.items() if value is None]
    if len(missing) == len(settings):
        return ContainerRepositoryIsNotConfiguredError()
    names = ", ".join(f"CONTAINER_REPOSITORY_{name}" for name in missing)
    return ContainerRepositoryIsNotConfiguredError(
        f"The container repository is only partly configured on this server: {names} not set"
    )
