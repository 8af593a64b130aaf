"""A provisioner server that follows a script: a real HTTP server on a loopback port."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    body: Json
    raw: bytes
    headers: dict[str, str]
    time: float = field(default_factory=time.monotonic)
    """When it came, on the monotonic clock."""

    @property
    def verb(self) -> str:
        return self.path.strip("/")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one request gets."""

    status: int = 200
    body: object = field(default_factory=dict)
    raw: bytes | None = None
    """Sent as it is, in place of `body`."""
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    """Answer only when this is set."""
    hang_up: bool = False
    """Close the connection without an answer."""


Behaviour = Callable[[Call], Answer]


class HttpPeer:
    """Use as a context manager.

    The next answer in `script` of a verb is used up by the next request of that verb; afterwards
    `behave` answers.
    """

    def __init__(self, behave: Behaviour | None = None, *, port: int = 0) -> None:
        self.behave = behave or (lambda _: Answer(status=500, body={"detail": "no script"}))
        self.script: dict[str, list[Answer]] = defaultdict(list)
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        peer = self

        class Handler(_Handler):
            owner = peer

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; further connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)

    def verbs(self) -> list[str]:
        """The verbs of all requests in order."""
        with self._lock:
            return [call.verb for call in self.calls]

    def count(self, verb: str) -> int:
        return self.verbs().count(verb)

    def calls_of(self, verb: str) -> list[Call]:
        with self._lock:
            return [call for call in self.calls if call.verb == verb]

    def answer(self, call: Call) -> Answer:
        with self._lock:
            self.calls.append(call)
            script = self.script[call.verb]
            if script:
                return script.pop(0)
        return self.behave(call)


def forwarding_to(url: str) -> Behaviour:
    """Answers what another server answers."""

    def forward(call: Call) -> Answer:
        headers = {
            name: value
            for name, value in call.headers.items()
            if name in {"authorization", "content-type", "idempotency-key"}
        }
        try:
            there = httpx.post(url + call.path, content=call.raw, headers=headers, timeout=30)
        except httpx.HTTPError:
            return Answer(hang_up=True)
        return Answer(status=there.status_code, raw=there.content)

    return forward


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that goes away in the middle of a request is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    owner: HttpPeer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = Call(
            method=self.command,
            path=self.path,
            body=json.loads(raw) if raw else {},
            raw=raw,
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        answer = self.owner.answer(call)
        if answer.hold is not None:
            answer.hold.wait(60)
        if answer.hang_up:
            self.close_connection = True
            return
        content = json.dumps(answer.body).encode() if answer.raw is None else answer.raw
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
