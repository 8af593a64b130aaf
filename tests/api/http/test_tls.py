"""The API over HTTPS: what a certificate must be, who trusts it, and what is no TLS."""

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
from control_plane import Client
from control_plane.errors import ServerConnectionError
from fastapi import FastAPI

from api.http.protocol import BoundedProtocol
from api.http.tls import CertificateError, load_certificate, why_not_verified
from registry.changes import Changes
from tests.support.api import USER, serving
from tests.support.certificates import make_certificate, needs_openssl
from tests.support.harness import API_KEY

pytestmark = needs_openssl


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path, "DNS:localhost")


async def test_clients_that_know_its_authority_use_it_and_others_refuse(
    app: FastAPI, changes: Changes, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(app, changes, tls=load_certificate(*files)) as server:
        url = f"https://localhost:{server.port}"

        def ask(url: str) -> object:
            with Client(url, API_KEY, patience=0) as client:
                return list(client.list_projects())

        with pytest.raises(ServerConnectionError, match="certificate"):
            await asyncio.to_thread(ask, url)
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        assert await asyncio.to_thread(ask, url) == []
        # It is for one name only.
        with pytest.raises(ServerConnectionError, match="certificate"):
            await asyncio.to_thread(ask, f"https://127.0.0.1:{server.port}")


async def test_a_connection_carries_many_requests_and_large_ones(
    app: FastAPI, changes: Changes, files: tuple[Path, Path]
) -> None:
    trusting = ssl.create_default_context(cafile=files[0])
    async with (
        serving(app, changes, tls=load_certificate(*files)) as server,
        httpx.AsyncClient(
            base_url=f"https://localhost:{server.port}", headers=USER, verify=trusting, timeout=60
        ) as http,
    ):
        for _ in range(3):
            assert (await http.get("/projects")).status_code == 200
        large = await http.post("/projects/p/versions", content=b" " * (5 * 2**20))
        assert large.status_code == 413
        assert "strict-transport-security" not in large.headers


async def test_what_is_no_handshake_is_closed_and_holds_up_nobody(
    app: FastAPI,
    changes: Changes,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 2)
    trusting = ssl.create_default_context(cafile=files[0])
    async with (
        serving(app, changes, tls=load_certificate(*files), max_connections=3) as server,
        httpx.AsyncClient(
            base_url=f"https://localhost:{server.port}", headers=USER, verify=trusting, timeout=60
        ) as http,
    ):
        # More than there is room for, of whom nobody says a word.
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(10)]
        for _, writer in silent[5:]:
            writer.write(b"GET / HTTP/1.1\r\nHost: c\r\n\r\n")
        assert (await http.get("/projects")).status_code == 200
        async with asyncio.timeout(60):
            for reader, writer in silent:
                seen = await _rest(reader)
                # A client that speaks plain HTTP is told so by TLS at most.
                assert not seen.startswith(b"HTTP")
                writer.close()
        assert (await http.get("/projects")).status_code == 200


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_what_is_wrong_with_the_files_is_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other, other_key = make_certificate(tmp_path / "other", "DNS:localhost")
    _, locked = make_certificate(tmp_path / "locked", "DNS:localhost", password="secret")
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\x30\x82\x01")
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for first, second, text in (
        (tmp_path / "none", key, "cannot be read: No such file or directory"),
        (certificate, tmp_path, "cannot be read: Is a directory"),
        (nonsense, key, "is no file in PEM"),
        (broken, key, "one of them holds something else"),
        (certificate, other_key, "the key is that of another certificate"),
        (certificate, certificate, "one of them holds something else"),
        (certificate, locked, "is encrypted"),
    ):
        with pytest.raises(CertificateError, match=text):
            load_certificate(first, second)
    assert other.exists()


def test_whether_workers_would_trust_it_is_known_before_they_run(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = load_certificate(*files)
    assert "self-signed" in (why_not_verified(tls, "localhost") or "")
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    assert why_not_verified(tls, "localhost") is None
    assert "IP address mismatch" in (why_not_verified(tls, "127.0.0.1") or "")
