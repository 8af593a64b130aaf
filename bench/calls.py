"""A deployed function, called over HTTP as any client calls it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

Json = dict[str, Any]


class Function:
    """One function of one version.

    Args:
        http: a session with the address and the key.
        path: of its invocations.
    """

    def __init__(self, http: aiohttp.ClientSession, path: str) -> None:
        self.http = http
        self.path = path

    async def call(self) -> str:
        """Create an invocation; returns its path."""
        async with self.http.post(self.path, json={"input": ""}) as answer:
            return f"{self.path}/{(await answer.json())['invocation_id']}"

    async def read(self, path: str, *, wait: float = 0) -> Json:
        """Give an invocation; with `wait`, as soon as it is TERMINATED, or after these seconds."""
        query = {"wait": str(wait)} if wait else {}
        async with self.http.get(path, params=query) as answer:
            seen: Json = await answer.json()
        return seen

    async def until_terminated(self, path: str) -> Json:
        """Wait for the end of an invocation, by requests that wait."""
        while True:
            seen = await self.read(path, wait=30)
            if seen["invocation_status"] == "TERMINATED":
                return seen

    async def until_none_runs(self, *, pause: float = 0.25) -> None:
        """Look for running invocations until there are none."""
        query = {"status": "RUNNING", "max_results": "1"}
        while True:
            async with self.http.get(self.path, params=query) as answer:
                if not (await answer.json())["invocations"]:
                    return
            await asyncio.sleep(pause)

    async def call_many(self, count: int, *, at_once: int) -> list[float]:
        """Create so many invocations; returns the seconds that each request took."""
        gate = asyncio.Semaphore(at_once)
        seconds: list[float] = []

        async def one() -> None:
            async with gate:
                began = time.perf_counter()
                await self.call()
                seconds.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(count)))
        return seconds


@asynccontextmanager
async def client(api_url: str, api_key: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that raises for each error."""
    async with aiohttp.ClientSession(
        base_url=api_url,
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": f"Bearer {api_key}"},
        raise_for_status=True,
    ) as http:
        yield http


async def deploy(
    http: aiohttp.ClientSession,
    name: str,
    *,
    project: str | None = None,
    image: str = "image",
    limit: int = 100,
    timeout_seconds: int = 600,
) -> Function:
    """Make a project with one function, both of this name by default; returns when it is READY."""
    project = project or name
    spec: Json = {
        "function_name": name,
        "resource_spec": {"virtual_cpus": 1, "memory_gbs": 1, "max_concurrency": limit},
        "execution_spec": {"max_retries": 0, "timeout_seconds": timeout_seconds},
    }
    async with http.put(f"/projects/{project}"):
        pass
    version = {"default_docker_image": image, "functions": [spec]}
    async with http.post(f"/projects/{project}/versions", json=version) as answer:
        path = f"/projects/{project}/versions/{(await answer.json())['version_id']}"
    while True:
        async with http.get(path) as answer:
            if (await answer.json())["functions"][0]["function_status"] == "READY":
                return Function(http, f"{path}/functions/{name}/invocations")
        await asyncio.sleep(0.05)
