"""The API's routes, built once for all tests of a process."""

from functools import cache

from fastapi import FastAPI

from api.app import create_app_without_context


@cache
def _built() -> FastAPI:
    return create_app_without_context()


def on_shared_routes(app: FastAPI) -> FastAPI:
    """Give the application the routes of its siblings; context and middleware stay its own.

    FastAPI builds the routes of a router at its first request. That takes longer than most tests of
    the API. The list is the application's own: a test may add a route to it.
    """
    app.router.routes[:] = _built().routes
    return app
