"""The clients that functions and invocations use where the caller gives them none."""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncIterator
from weakref import WeakKeyDictionary

from control_plane._http.async_client import AsyncClient
from control_plane._http.client import Client
from control_plane._http.profiles import Profile, find_server
from control_plane._inside.context import current_or_none

_RETRY_SECONDS_IN_WORKERS = 300.0
_RETRY_SECONDS = 60.0


class Connection:
    """A way to a control plane: the given client's, or the one that the surroundings name.

    Inside a function that is the function's own control plane, with the token of the execution.
    """

    def __init__(self, client: Client | None = None) -> None:
        self._client = client

    @property
    def is_given(self) -> bool:
        """Whether the caller has chosen the server."""
        return self._client is not None

    @property
    def client(self) -> Client:
        """A client for any thread.

        Raises:
            ConfigurationError: nothing says which server is meant.
        """
        return self._client or _default_client()

    @property
    def async_client(self) -> AsyncClient:
        """A client for the event loop that runs; it is closed with the loop.

        Raises:
            ConfigurationError: nothing says which server is meant.
        """
        return _client_of_loop(self._client.server if self._client else _default_server())

    def own_async_client(self) -> AsyncClient:
        """Make a client that the caller closes.

        Raises:
            ConfigurationError: nothing says which server is meant.
        """
        return _make_async_client(self._client.server if self._client else _default_server())


_lock = threading.Lock()
_clients: dict[tuple[int, Profile], Client] = {}
_clients_of_loops: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[Profile, tuple[AsyncClient, AsyncIterator[None]]]
] = WeakKeyDictionary()


@atexit.register
def _close_clients() -> None:
    for (process_id, _), client in _clients.items():
        if process_id == os.getpid():
            client.close()


def _default_server() -> Profile:
    context = current_or_none()
    if context is not None:
        return Profile(url=context.api_url, key=context.api_key)
    return find_server()


def _retry_seconds() -> float:
    return _RETRY_SECONDS if current_or_none() is None else _RETRY_SECONDS_IN_WORKERS


def _default_client() -> Client:
    server = _default_server()
    # A process that was forked must not share connections with its parent.
    name = (os.getpid(), server)
    with _lock:
        if name not in _clients:
            _clients[name] = Client(server.url, server.key, patience=_retry_seconds())
        return _clients[name]


def _make_async_client(server: Profile) -> AsyncClient:
    return AsyncClient(server.url, server.key, patience=_retry_seconds())


def _client_of_loop(server: Profile) -> AsyncClient:
    clients = _clients_of_loops.setdefault(asyncio.get_running_loop(), {})
    if server not in clients:
        client = _make_async_client(server)
        keeper = _close_at_the_end(client)
        clients[server] = (client, keeper)
        # As soon as it has begun, the loop ends it when it shuts down (`shutdown_asyncgens`).
        asyncio.ensure_future(anext(keeper)).add_done_callback(lambda _: None)
    return clients[server][0]


async def _close_at_the_end(client: AsyncClient) -> AsyncIterator[None]:
    try:
        yield
    finally:
        _clients_of_loops.pop(asyncio.get_running_loop(), None)
        await client.close()
