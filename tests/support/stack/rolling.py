"""Clients that keep calling while the programs that serve them are stopped and started again."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import httpx

from tests.support.ports import free_port
from tests.support.stack.caller import is_over
from tests.support.stack.processes import Json, Program
from tests.support.stack.stack import Stack

LONG = 60


class Pairs(Stack):
    """Two APIs and two Temporal workers. Workers of executions know the first API only."""

    def start_api(self) -> None:
        self.ports = (self.port, free_port())
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.apis = [self._start_api_at(port) for port in self.ports]

    def start_temporal_worker(self) -> None:
        self.temporal_workers = [self._start("worker") for _ in range(2)]

    def until_ready(self) -> None:
        for program in self.apis:
            program.event("api_listening")
        for program in self.temporal_workers:
            program.event("temporal_worker_started")

    def restart(self, number: int, **settings: str) -> None:
        """Stop one of each with SIGTERM, and start it again, from now on with other settings."""
        self._environment |= settings
        stop(self.apis[number], self.temporal_workers[number])
        self.apis[number] = self._start_api_at(self.ports[number])
        self.temporal_workers[number] = self._start("worker")
        self.until_ready()

    def _start_api_at(self, port: int) -> Program:
        return self._start("api", "--host", "127.0.0.1", "--port", str(port))


def stop(*programs: Program) -> None:
    """Stop programs with SIGTERM, at the same time, and wait for their end."""
    for program in programs:
        program.send(signal.SIGTERM)
    for program in programs:
        assert program.wait(seconds=40) == 0, program.stderr[-4000:]
        assert "Traceback" not in program.stderr


class Client:
    """Calls one API after the other, and the next one if it may not connect. No other retries.

    A connection that breaks after the request was sent is an error here: the client cannot know
    what has become of the call.

    Args:
        urls: addresses of the APIs.
        key: the user's key.
        keep_alive: whether one connection serves many requests.
    """

    def __init__(self, urls: Sequence[str], key: str, *, keep_alive: bool) -> None:
        self.calls: Counter[str] = Counter()
        self._apis = [
            httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=LONG + 30,
                verify=False,  # noqa: S501 - http; reading what is trusted takes 40 ms
                limits=httpx.Limits(max_keepalive_connections=None if keep_alive else 0),
            )
            for url in urls
        ]
        self._next = cycle(self._apis)

    def call(self, method: str, path: str, **options: object) -> Json:
        """Send one request; its answer must be a 200."""
        for _ in range(1000):
            api = next(self._next)
            try:
                answer = api.request(method, path, **options)  # type: ignore[arg-type] # of httpx
            except httpx.ConnectError:
                self.calls["refused"] += 1
                continue
            assert answer.status_code == 200, f"{method} {path}: {answer.text}"
            self.calls["answered"] += 1
            body: Json = answer.json()
            return body
        raise AssertionError("no API lets anyone connect")

    def result(self, path: str) -> Json:
        """Wait for the end of an invocation with requests that wait."""
        while not is_over(seen := self.call("GET", path, params={"wait": LONG})):
            pass
        return seen

    def close(self) -> None:
        for api in self._apis:
            api.close()


class Load:
    """Threads that call until the end of the block, and what went wrong in them."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.errors: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, client: Client, step: Callable[[Client], None]) -> None:
        """Let a client take a step again and again, in a thread of its own; it is closed then."""

        def repeat() -> None:
            try:
                while not self._over.is_set():
                    try:
                        step(client)
                    except (httpx.HTTPError, AssertionError) as error:
                        self.errors.append(f"{type(error).__name__}: {error}")
            finally:
                self.calls += client.calls
                client.close()

        thread = threading.Thread(target=repeat)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def load() -> Iterator[Load]:
    """What is added calls until the end of the block."""
    running = Load()
    try:
        yield running
    finally:
        running.end()
