"""What every route needs, made once by `api.app.create_app`."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.requests.after_commit import AfterCommit
from api.views.shared import Links
from core.settings import ApiSettings
from core.temporal.dispatch import Dispatcher
from registry.changes import Changes
from registry.database.engine import Registry
from registry.queries.piece_stores import PieceStore
from registry.queries.token_secret import WorkerTokens


@dataclass(frozen=True, kw_only=True)
class Context:
    """The API process's connections and secrets."""

    registry: Registry
    changes: Changes
    pieces: PieceStore
    # Leaves most of the pool's connections to other requests, however many wait for a change.
    reads_of_waiters: asyncio.Semaphore
    dispatcher: Dispatcher
    # Where functions run whose version's definition names no pool.
    default_pool: str
    after_commit: AfterCommit
    # Not in the repr, which error reports and debuggers show.
    api_keys: tuple[str, ...] = field(repr=False)
    tokens: WorkerTokens = field(repr=False)
    api_settings: ApiSettings
    links: Links


async def context_of(request: Request) -> Context:
    """Give the context of the application that serves a request.

    Dependencies are coroutines even where nothing is awaited: FastAPI would run a plain function in
    a thread.
    """
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(context_of)]
