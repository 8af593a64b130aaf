"""The FastAPI application."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from api.http.middleware import BodyLimitMiddleware, RequestIdMiddleware, TolerantRequestMiddleware
from api.openapi import add_bearer_scheme, to_openapi_3_0
from api.reference import routes as reference
from api.requests import errors
from api.requests.after_commit import AfterCommit
from api.requests.context import Context
from api.resources import (
    bundles,
    executions,
    invocations,
    invocations_by_id,
    projects,
    system,
    versions,
)
from api.views.shared import Links
from core.settings import ApiSettings
from registry.changes import Changes
from runtime.parts import Parts

_DESCRIPTION: Final = """\
Deploys functions and calls them, each call on compute of its own.

Every success is a 200. Every error is JSON with a `detail`; its status and its exact text are part
of the contract. Times are whole epoch seconds (UTC). Ids are a prefix and 32 hexadecimal digits,
and order by the time of their creation.
"""


class ControlPlaneApi(FastAPI):
    """FastAPI, with its document in OpenAPI 3.0.3."""

    def openapi(self) -> dict[str, Any]:
        """Give the OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            add_bearer_scheme(document)
            self.openapi_schema = to_openapi_3_0(document)
        return self.openapi_schema


def _operation_id(route: APIRoute) -> str:
    # Client generators name their methods after this.
    return route.name


def create_app_without_context() -> ControlPlaneApi:
    """Make the application with all routes, but unable to serve them: good for its document."""
    app = ControlPlaneApi(
        title="control-plane",
        description=_DESCRIPTION,
        version="1.0.0",
        generate_unique_id_function=_operation_id,
        # These pages would load scripts from elsewhere; `api.reference` has one of our own.
        docs_url=None,
        redoc_url=None,
        # A body is JSON, whatever the request says about it.
        strict_content_type=False,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestIdMiddleware),
            Middleware(TolerantRequestMiddleware),
            Middleware(BodyLimitMiddleware),
        ],
    )
    errors.install(app)
    for router in (
        reference.router,
        system.public_router,
        system.router,
        projects.router,
        bundles.router,
        versions.router,
        invocations.router,
        invocations_by_id.router,
        executions.router,
    ):
        app.include_router(router)
    return app


def create_app(
    parts: Parts,
    *,
    changes: Changes,
    default_pool: str,
    api_settings: ApiSettings,
    log_in_to_ui: Callable[[str], str] | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        parts: what it is put together from; the caller closes them.
        changes: what requests wait for; the caller starts and closes it.
        default_pool: where functions run whose version's definition names no pool.
        api_settings: what only the API reads.
        log_in_to_ui: makes an address that logs a browser in to Temporal's web UI, from a path
            there; None if it needs no login.
    """
    app = create_app_without_context()
    app.state.context = Context(
        registry=parts.registry,
        changes=changes,
        pieces=parts.pieces,
        reads_of_waiters=asyncio.Semaphore(max(1, parts.registry.pool_size // 4)),
        dispatcher=parts.dispatcher,
        default_pool=default_pool,
        after_commit=AfterCommit(),
        api_keys=parts.keys.api_keys(),
        tokens=parts.tokens,
        api_settings=api_settings,
        links=Links(
            temporal_ui_url=parts.temporal_settings.temporal_ui_url,
            temporal_namespace=parts.temporal_settings.temporal_namespace,
            log_in=log_in_to_ui,
        ),
    )
    return app
