"""A small HTTP server between a client and nothing: it answers by a script and records requests."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_SPEC = {
    "virtual_cpus": 1.0,
    "memory_gbs": 1.0,
    "max_concurrency": 1,
    "max_retries": 0,
    "timeout_seconds": 1,
}
INVOCATION: dict[str, Any] = {
    "project_name": "p",
    "version_id": "ver-1",
    "function_name": "f",
    "invocation_id": "inv-1",
    "input": "[]",
    "invocation_status": "RUNNING",
    "phase": "QUEUED",
    "creation_time": 1,
    "last_update_time": 2,
    "resource_spec": _SPEC,
    "execution_spec": _SPEC,
    "executions": [],
    "temporal_url": "http://temporal/inv-1",
}
"""An invocation as the API answers it."""
NO_SUCH_ROUTE = {"detail": "Not Found"}
"""What a server says that is older than a route, with a 404."""


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """What comes of one request."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Read the request, then close the connection."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Gateway:
    """Answers with the next entry of `script`; the last one is repeated. Use as context manager."""

    def __init__(self, *script: Scripted) -> None:
        self.seen: list[Seen] = []
        self._script = list(script)
        self._lock = threading.Lock()
        gateway = self

        class Handler(_Handler):
            owner = gateway

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next(self, seen: Seen) -> Scripted:
        with self._lock:
            self.seen.append(seen)
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]


class _Handler(BaseHTTPRequestHandler):
    owner: Gateway
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.owner.next(
            Seen(
                method=self.command,
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=json.loads(raw) if raw else None,
            )
        )
        if answer.drop:
            self.close_connection = True
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()
