"""Another API key while all goes on, and HTTPS from the user to the worker."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.settings import RegistrySettings
from tests.support.certificates import make_certificate, needs_openssl
from tests.support.harness import function_spec
from tests.support.servers import Addresses
from tests.support.stack.caller import Caller
from tests.support.stack.rolling import Client, Pairs, load
from tests.support.stack.stack import API_KEY, PROJECT, Stack, environment_for

NEW_KEY = "0b7d2c94-a-key-that-comes-after-it"


@pytest.fixture
def pairs(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path
) -> Iterator[Pairs]:
    running = Pairs(tmp_path, environment_for(registry_settings, servers))
    yield running
    running.close()


def _status(pairs: Pairs, key: str) -> set[int]:
    headers = {"Authorization": f"Bearer {key}"}
    return {httpx.get(f"{url}/projects", headers=headers).status_code for url in pairs.urls}


@pytest.mark.timeout(300)
def test_the_key_is_changed_under_load_and_no_call_fails(pairs: Pairs, open_folder: Path) -> None:
    """As docs/operations.md says: both keys, then the clients, then the new key alone."""
    version = pairs.caller.deploy(PROJECT, function_spec("wait_for_file", timeout=600))
    gate = open_folder / "gate"
    running = version.invoke("wait_for_file", str(gate))
    running.until_started()

    def read(client: Client) -> None:
        client.call("GET", running.path)

    with load() as before:
        for keep_alive in (True, False):
            before.add(Client(pairs.urls, API_KEY, keep_alive=keep_alive), read)
        both = {"CONTROL_PLANE_API_KEY": NEW_KEY, "CONTROL_PLANE_API_KEY_PREVIOUS": API_KEY}
        for number in range(2):
            pairs.restart(number, **both)
    assert before.errors == []
    assert before.calls["answered"] > 0
    assert _status(pairs, API_KEY) == _status(pairs, NEW_KEY) == {200}

    with load() as after:
        for keep_alive in (True, False):
            after.add(Client(pairs.urls, NEW_KEY, keep_alive=keep_alive), read)
        for number in range(2):
            pairs.restart(number, CONTROL_PLANE_API_KEY_PREVIOUS="")
    assert after.errors == []
    assert after.calls["answered"] > 0
    assert _status(pairs, API_KEY) == {403}

    # The worker's token outlives both keys.
    gate.touch()
    with Caller(pairs.caller.url, NEW_KEY) as caller:
        over = caller.call("GET", running.path, params={"wait": 60}, timeout=90)
    assert over["phase"] == "SUCCEEDED", over


@needs_openssl
def test_a_function_runs_and_reports_over_https(
    servers: Addresses, registry_settings: RegistrySettings, tmp_path: Path, open_folder: Path
) -> None:
    """The worker checks the certificate of the API: its authority is passed on to it."""
    certificate, key = make_certificate(open_folder / "tls", "IP:127.0.0.1")
    environment = {
        **environment_for(registry_settings, servers),
        "CONTROL_PLANE_TLS_CERTIFICATE_FILE": str(certificate),
        "CONTROL_PLANE_TLS_KEY_FILE": str(key),
        "SSL_CERT_FILE": str(certificate),
    }
    stack = Stack(tmp_path, environment, scheme="https")
    try:
        version = stack.caller.deploy(PROJECT, function_spec("greet"))
        assert version.invoke("greet", "Ada").result() == "Hello, Ada!"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{stack.port}/")
    finally:
        stack.close()
