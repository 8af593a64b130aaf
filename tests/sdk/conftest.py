"""The library over a real stack: API and Temporal worker as processes, workers as processes."""

from collections.abc import Iterator

import pytest
from control_plane._http.client import Client

from tests.e2e.conftest import stack
from tests.support.stack.stack import API_KEY, Stack

__all__ = ["stack"]


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.caller.url, API_KEY) as client:
        yield client


@pytest.fixture(params=["httpx", "standard library"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which requests are carried."""
    kind = str(request.param)
    if kind != "httpx":
        monkeypatch.setattr("control_plane._http.transports.find_httpx", lambda: None)
    return kind
