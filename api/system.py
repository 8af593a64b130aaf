"""Routes that belong to no resource."""

from fastapi import APIRouter

from api.auth import AuthenticatedRoute, RootOnly
from api.context import ContextDep
from api.errors import responses
from core.contract.system import ContainerRepositoryCredentials, HealthStatus
from core.errors import ContainerRepositoryIsNotConfiguredError

public_router = APIRouter(tags=["system"])
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
    if (
        settings.container_repository_name is None
        or settings.container_repository_user is None
        or settings.container_repository_password is None
        or settings.container_repository_endpoint is None
    ):
        raise ContainerRepositoryIsNotConfiguredError
    return ContainerRepositoryCredentials(
        repository_name=settings.container_repository_name,
        username=settings.container_repository_user,
        password=settings.container_repository_password.get_secret_value(),
        endpoint_url=settings.container_repository_endpoint,
    )
