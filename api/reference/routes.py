"""Routes of the reference: HTML for people, from this package's own files only."""

from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from api.access.authentication import PublicRoute
from api.reference.page import render

_STYLE_PATH: Final = "/docs/style.css"
_STYLE_FILE: Final = Path(__file__).with_name("style.css")

router = APIRouter(route_class=PublicRoute, include_in_schema=False)


@router.get("/docs")
@router.get("/redoc")
async def get_reference(request: Request) -> HTMLResponse:
    """Give the page; both paths are those of FastAPI."""
    return HTMLResponse(_page(request.app))


@router.get(_STYLE_PATH)
async def get_style() -> Response:
    """Give what the page looks like."""
    return Response(_style(), media_type="text/css")


@lru_cache(maxsize=1)
def _page(app: FastAPI) -> str:
    return render(app.openapi(), style=_STYLE_PATH, source=str(app.openapi_url))


@cache
def _style() -> str:
    return _STYLE_FILE.read_text(encoding="utf-8")
