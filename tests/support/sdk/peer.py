"""The API as one worker sees it: a real HTTP server for one execution, which can misbehave.

It keeps the contract's rules for the worker endpoints (start once, then updates, then one finish),
records every request, and follows a script of faults: the next fault of a verb is used up by the
next request of that verb.
"""

import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EXECUTION_PATH = (
    "/projects/p%201/versions/ver-1/functions/{function}/invocations/inv-1/executions/exe-1"
)
TOKEN = "exe-1.secret"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one request."""

    status: int | None = None
    """Answer this, and do nothing."""
    detail: str = "scripted"
    headers: dict[str, str] = field(default_factory=dict)
    drop_before: bool = False
    """Close the connection instead of doing the work."""
    drop_after: bool = False
    """Do the work, then close the connection without an answer."""
    hold: threading.Event | None = None
    """Do the work at once, but answer only when this is set."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    verb: str
    body: dict[str, Any]
    headers: dict[str, str]
    connection: int
    time: float


class Peer:
    """A scripted API on a loopback port. Use as a context manager."""

    def __init__(self, *, listen: bool = True) -> None:
        self.input: str | None = "null"
        self.creation_time = int(time.time())
        self.timeout_seconds = 3600
        self.attempt = 1
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.terminated = False
        self.started = False
        self.finished: dict[str, Any] | None = None
        self.calls: list[Call] = []
        self.refuse_finish: Callable[[dict[str, Any]], str | None] = lambda _: None
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        if listen:
            self.listen()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def listen(self) -> None:
        """Open the port; before, connections to it are refused."""
        peer = self

        class Handler(_Handler):
            api = peer

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def verbs(self) -> list[str]:
        """All requests in order: "GET", "start", "update", "progress" or "finish"."""
        with self._changed:
            return [call.verb for call in self.calls]

    @property
    def outputs(self) -> list[Any]:
        """The decoded outputs of all updates in order."""
        with self._changed:
            return [
                json.loads(call.body["latest_output"])
                for call in self.calls
                if call.verb == "update"
            ]

    @property
    def reports(self) -> list[Any]:
        """The progress of all reports in order."""
        with self._changed:
            return [call.body["progress"] for call in self.calls if call.verb == "progress"]

    def wait_for(self, condition: Callable[[], bool], *, timeout: float = 15.0) -> None:
        """Wait until a condition on what was recorded holds."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), f"in vain; calls: {self.calls}"

    def wait_for_calls(self, verb: str, count: int = 1) -> None:
        self.wait_for(lambda: sum(call.verb == verb for call in self.calls) >= count)

    def record(self, call: Call) -> Fault:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
            faults = self.faults[call.verb]
            return faults.pop(0) if faults else Fault()

    def work(self, call: Call) -> tuple[int, dict[str, Any]]:
        """Do what the contract says; the order of the 409 rules is the contract's."""
        with self._changed:
            refusal = self._refusal(call)
            if refusal is not None:
                return refusal
            if call.verb == "start":
                self.started = True
            elif call.verb == "finish":
                text = self.refuse_finish(call.body)
                if text is not None:
                    return 422, {"detail": [{"type": "value_error", "msg": text}]}
                self.finished = call.body
            self._changed.notify_all()
            return 200, {
                "input": self.input,
                "invocation_creation_time": self.creation_time,
                "execution_spec": {"timeout_seconds": self.timeout_seconds, "max_retries": 0},
                "attempt": self.attempt,
            }

    def _refusal(self, call: Call) -> tuple[int, dict[str, Any]] | None:
        reporting = call.verb in {"update", "progress", "finish"}
        rules = [
            (call.headers.get("authorization") != f"Bearer {TOKEN}", 403, "The API key is invalid"),
            (call.verb not in {"GET", "start", "update", "progress", "finish"}, 404, "Not Found"),
            (reporting and not self.started, 409, "This execution has not yet started"),
            (call.verb == "start" and self.started, 409, "This execution has already started"),
            (
                reporting and self.finished is not None,
                409,
                "This execution has already finished",
            ),
            (
                call.verb != "GET" and self.terminated,
                409,
                "This execution has already terminated",
            ),
        ]
        return next(
            ((status, {"detail": detail}) for broken, status, detail in rules if broken), None
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A worker that goes away in the middle of a request is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    api: Peer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_PUT(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = Call(
            method=self.command,
            path=self.path,
            verb=self.path.rsplit("/", 1)[1] if self.command == "PUT" else "GET",
            body=json.loads(raw) if raw else {},
            headers={name.lower(): value for name, value in self.headers.items()},
            connection=self.client_address[1],
            time=time.monotonic(),
        )
        fault = self.api.record(call)
        if fault.drop_before:
            self.close_connection = True
            return
        if fault.status is not None:
            self._answer(fault.status, {"detail": fault.detail}, fault.headers)
            return
        status, content = self.api.work(call)
        if fault.hold is not None:
            fault.hold.wait(15)
        if fault.drop_after:
            self.close_connection = True
            return
        self._answer(status, content, fault.headers)

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
