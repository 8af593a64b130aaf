"""A caller of the API that repeats what was not answered, and nothing else."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import aiohttp

Json = dict[str, Any]

_TRY_SECONDS = 10.0
_PAUSE_SECONDS = 0.2


class UnexpectedAnswerError(Exception):
    """An answer that no fault explains."""


class Client:
    """Asks until there is an answer.

    What a fault may lead to is a connection that breaks, silence, and 503. Anything else is an
    answer that the contract does not know here.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.repeated = 0
        """How many requests had to be sent again."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        key: str | None = None,
        accept: Iterable[int] = (200,),
    ) -> tuple[int, Json]:
        """Give the status and the content of the answer.

        Raises:
            UnexpectedAnswerError: the status is none of `accept`.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        while True:
            try:
                async with self._http.request(
                    method,
                    path,
                    json=body,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=_TRY_SECONDS),
                ) as answer:
                    status = answer.status
                    text = await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.repeated += 1
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if status in accept:
                content: Json = json.loads(text)
                return status, content
            if status != 503:
                raise UnexpectedAnswerError(f"{method} {path}: {status} {text[:500]}")
            self.repeated += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def get(self, path: str) -> Json:
        return (await self.call("GET", path))[1]
