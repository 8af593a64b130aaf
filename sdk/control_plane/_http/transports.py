"""Sends requests to the server: with httpx where it is installed, else with the standard library.

A worker need not have httpx: it may run on an interpreter of its own, with nothing installed. Calls
from inside a function then go through `http.client`.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from control_plane._http.exchange import Answer, NoAnswer
from control_plane._http.requests import Request

if TYPE_CHECKING:
    from types import ModuleType

    import httpx

_CONNECT_SECONDS = 10.0
_CONNECTIONS = 200


class Transport(Protocol):
    """Sends requests, one try each, for any number of threads at once."""

    def send(self, request: Request[Any]) -> Answer | NoAnswer:
        """Send a request once."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


class AsyncTransport(Protocol):
    """Sends requests, one try each, in the event loop in which it was made."""

    async def send(self, request: Request[Any]) -> Answer | NoAnswer:
        """Send a request once."""
        ...

    async def close(self) -> None:
        """End the connections."""
        ...


def find_httpx() -> "ModuleType | None":
    """Give the module httpx, or None where it is not installed."""
    try:
        # Imported here: it takes longer than all the rest, and workers may be without it.
        import httpx  # noqa: PLC0415 - see above
    except ImportError:
        return None
    return httpx


def make_transport(url: str, *, key: str, timeout: float) -> Transport:
    """Give what there is to send requests with. `timeout`: seconds until an answer must come."""
    httpx = find_httpx()
    if httpx is None:
        return _PlainTransport(url, key=key, timeout=timeout)
    options = _httpx_options(httpx, url, key=key)
    return _HttpxTransport(httpx.Client(**options), timeout=timeout)


def make_async_transport(url: str, *, key: str, timeout: float) -> AsyncTransport:
    """Give what there is to send requests with in an event loop; as `make_transport`."""
    httpx = find_httpx()
    if httpx is None:
        return _ThreadedTransport(_PlainTransport(url, key=key, timeout=timeout))
    options = _httpx_options(httpx, url, key=key)
    return _AsyncHttpxTransport(httpx.AsyncClient(**options), timeout=timeout)


def _headers(key: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {key}",
        "Accept": "application/json",
        "User-Agent": "control-plane-sdk",
    }


def _httpx_options(httpx: Any, url: str, *, key: str) -> dict[str, Any]:  # noqa: ANN401 - the module
    options: dict[str, Any] = {}
    if urlsplit(url).scheme == "http":
        # Reading the certificates that are trusted takes 40 ms, and is for https only. This trusts
        # none, and no redirect is followed.
        options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return options | {
        "base_url": url,
        "headers": _headers(key),
        "limits": httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=50),
    }


def _httpx_request(request: Request[Any], timeout: float) -> dict[str, Any]:
    import httpx  # noqa: PLC0415 - as above

    return {
        "method": request.method,
        "url": request.path,
        "content": request.content,
        "headers": dict(request.headers),
        # No limit for a connection's becoming free: others may be waiting for a minute.
        "timeout": httpx.Timeout(
            timeout + request.wait, connect=min(timeout, _CONNECT_SECONDS), pool=None
        ),
    }


def _httpx_answer(response: "httpx.Response") -> Answer:
    return Answer(
        status=response.status_code,
        body=response.content,
        retry_after=_seconds(response.headers.get("Retry-After")),
        request_id=response.headers.get("X-Request-ID", ""),
    )


def _httpx_failure(error: "httpx.TransportError") -> NoAnswer:
    import httpx  # noqa: PLC0415 - as above

    not_arrived = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    return NoAnswer(reason=_reason(error), may_have_arrived=not not_arrived)


class _HttpxTransport:
    def __init__(self, client: "httpx.Client", *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    def send(self, request: Request[Any]) -> Answer | NoAnswer:
        import httpx  # noqa: PLC0415 - as above

        try:
            return _httpx_answer(self._client.request(**_httpx_request(request, self._timeout)))
        except httpx.TransportError as error:
            return _httpx_failure(error)

    def close(self) -> None:
        self._client.close()


class _AsyncHttpxTransport:
    def __init__(self, client: "httpx.AsyncClient", *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def send(self, request: Request[Any]) -> Answer | NoAnswer:
        import httpx  # noqa: PLC0415 - as above

        try:
            return _httpx_answer(
                await self._client.request(**_httpx_request(request, self._timeout))
            )
        except httpx.TransportError as error:
            return _httpx_failure(error)

    async def close(self) -> None:
        await self._client.aclose()


class _PlainTransport:
    """The standard library's connections, as many as there are requests at once."""

    def __init__(self, url: str, *, key: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._make: Callable[[], HTTPConnection] = lambda: (
            HTTPSConnection if parts.scheme == "https" else HTTPConnection
        )(parts.hostname or "", parts.port, timeout=min(timeout, _CONNECT_SECONDS))
        self._base_path = parts.path.rstrip("/")
        self._timeout = timeout
        self._headers = _headers(key)
        self._idle: LifoQueue[HTTPConnection] = LifoQueue()
        self._busy: set[HTTPConnection] = set()

    def send(self, request: Request[Any]) -> Answer | NoAnswer:
        connection, arrived = None, False
        try:
            connection = self._connection()
            self._busy.add(connection)
            arrived = True
            connection.sock.settimeout(self._timeout + request.wait)
            headers = {**self._headers, **request.headers}
            connection.request(
                request.method, self._base_path + request.path, request.content, headers
            )
            with connection.getresponse() as response:
                answer = Answer(
                    status=response.status,
                    body=response.read(),
                    retry_after=_seconds(response.headers.get("Retry-After")),
                    request_id=response.headers.get("X-Request-ID", ""),
                )
        except (OSError, HTTPException) as error:
            if connection is not None:
                connection.close()
            return NoAnswer(reason=_reason(error), may_have_arrived=arrived)
        else:
            # Whatever interrupts this leaves the connection to be collected, not to be used again.
            self._idle.put(connection)
            return answer
        finally:
            if connection is not None:
                self._busy.discard(connection)

    def close(self) -> None:
        """Close all connections. A thread that waits for an answer gets none."""
        for connection in list(self._busy):
            # The other thread closes it; closing it here would not wake that one.
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _connection(self) -> HTTPConnection:
        # Imported here since its own module is the runner's, which most users do not load.
        from control_plane.runner.transport import is_readable  # noqa: PLC0415 - see above

        while True:
            try:
                connection = self._idle.get_nowait()
            except Empty:
                connection = self._make()
                connection.connect()
                return connection
            # Between two requests there is nothing to read but the end of the connection.
            if connection.sock is not None and not is_readable(connection.sock.fileno()):
                return connection
            connection.close()


class _ThreadedTransport:
    def __init__(self, transport: _PlainTransport) -> None:
        self._transport = transport
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="control-plane")

    async def send(self, request: Request[Any]) -> Answer | NoAnswer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._transport.send, request)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._transport.close()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _seconds(header: str | None) -> float:
    return float(header) if header is not None and header.isdecimal() else 0.0
