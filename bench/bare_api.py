"""The baseline of the API: FastAPI routes that send one query each, and nothing of ours.

As a module it is the server, in a process of its own. It has a table that looks like the one of the
invocations, with the indexes that an insert there has to serve.
"""

import argparse
import asyncio
import socket
import uuid
from typing import Any

import psycopg
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bench.programs import say, until_told_to_stop

_TABLE = """
    CREATE TABLE IF NOT EXISTS bare_calls (
        id text PRIMARY KEY, function_id text NOT NULL, input text NOT NULL, status text NOT NULL
    );
    CREATE INDEX IF NOT EXISTS bare_calls_page ON bare_calls (function_id, status, id);
"""
_INSERT = text(
    "INSERT INTO bare_calls (id, function_id, input, status)"
    " VALUES (:id, :function_id, :input, 'RUNNING')"
)
_GET = text("SELECT id, function_id, input, status FROM bare_calls WHERE id = :id")


class NewCall(BaseModel):
    """What is to be called."""

    input: str


class Call(BaseModel):
    """A call that was recorded."""

    id: str
    function_id: str
    input: str
    status: str


def _app(engine: AsyncEngine) -> FastAPI:
    app = FastAPI()

    @app.post("/functions/{function_id}/calls")
    async def create(function_id: str, new: NewCall) -> Call:
        values = {"id": uuid.uuid4().hex, "function_id": function_id, "input": new.input}
        async with engine.begin() as connection:
            await connection.execute(_INSERT, values)
        return Call(**values, status="RUNNING")

    @app.get("/calls/{call_id}")
    async def get(call_id: str) -> Call:
        async with engine.connect() as connection:
            row = (await connection.execute(_GET, {"id": call_id})).mappings().one_or_none()
        if row is None:
            raise HTTPException(404)
        return Call(**row)

    return app


async def _serve(arguments: argparse.Namespace) -> None:
    parts: dict[str, Any] = {"username": arguments.user, "database": arguments.database}
    query = {"host": arguments.host, "port": arguments.port}
    url = URL.create("postgresql+psycopg", password=arguments.password, query=query, **parts)
    with psycopg.connect(
        host=arguments.host,
        port=arguments.port,
        user=arguments.user,
        password=arguments.password,
        dbname=arguments.database,
    ) as database:
        database.execute(_TABLE)
    engine = create_async_engine(url, pool_size=20)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # As uvicorn has it on sockets of its own.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(_app(engine), log_level="error", access_log=False))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        say({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"})
        await until_told_to_stop()
        server.should_exit = True
        await serving
    await engine.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.bare_api", description=__doc__)
    for name in ("host", "port", "user", "password", "database"):
        parser.add_argument(f"--{name}", required=True)
    asyncio.run(_serve(parser.parse_args()))
