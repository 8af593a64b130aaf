"""The page at /docs: complete, and from this server alone."""

import asyncio
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app_without_context
from api.http.security_headers import SECURITY_HEADERS
from registry.changes import Changes
from tests.support.api import USER, Api, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
LOADS = {"src", "srcset", "data", "poster", "action", "formaction", "background", "ping"}


class Page(HTMLParser):
    """What a page refers to, and what could run in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.anchors: set[str] = set()
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in LOADS | {"href"}:
                self.addresses.add(value or "")
            if name == "id":
                self.anchors.add(value or "")
            if name.startswith("on") or name == "style":
                self.scripts.append(name)
        if tag in {"script", "style", "iframe", "object", "embed", "form", "base"}:
            self.scripts.append(tag)


async def test_it_names_no_other_host_and_runs_nothing(api: Api) -> None:
    """Whoever controls a host that scripts come from has the key that is typed there."""
    for path in ("/docs", "/redoc", "/docs/"):
        answer = await api.get(path, headers={})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = Page(answer.text)
        assert page.scripts == []
        outward = {address for address in page.addresses if not address.startswith("#")}
        assert outward == {"/docs/style.css", "/openapi.json"}
        for address in outward:
            assert (await api.get(address, headers={})).status_code == 200
        assert re.findall(r"//[\w.-]+", answer.text) == []
    style = (await api.get("/docs/style.css", headers={})).text
    assert re.findall(r"url|@import|//", style) == []


async def test_it_tells_of_every_operation_and_type(api: Api) -> None:
    document: dict[str, Any] = create_app_without_context().openapi()
    page = Page((await api.get("/docs", headers={})).text)
    operations = {
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    types = {f"type-{name}" for name in document["components"]["schemas"]}
    assert len(operations) > 15
    assert operations | types <= page.anchors
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links - page.anchors == set()


async def test_each_answer_tells_browsers_what_not_to_do(app: FastAPI, changes: Changes) -> None:
    async def fail() -> None:
        raise RuntimeError("as it was meant to")

    app.add_api_route("/fail", fail)
    assert dict(SECURITY_HEADERS)["x-content-type-options"] == "nosniff"
    policy = dict(SECURITY_HEADERS)["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    async with serving(app, changes) as server, httpx.AsyncClient(base_url=server.url) as http:
        for path, headers, status in (
            ("/docs", {}, 200),
            ("/projects", USER, 200),
            ("/projects", {}, 403),
            ("/nothing", {}, 404),
            ("/fail", {}, 500),
            ("/", {"X-Large": "x" * 70_000}, 431),
        ):
            answer = await http.get(path, headers=headers)
            assert answer.status_code == status
            assert dict(SECURITY_HEADERS).items() <= answer.headers.items()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"no HTTP\r\n\r\n")
        async with asyncio.timeout(60):
            refusal = (await reader.read()).decode()
        writer.close()
        assert refusal.startswith("HTTP/1.1 400")
        for name, value in SECURITY_HEADERS:
            assert f"{name}: {value}\r\n" in refusal


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
async def test_a_browser_shows_it_and_asks_no_other_host(
    app: FastAPI, changes: Changes, tmp_path: Path
) -> None:
    log = tmp_path / "network.json"
    async with serving(app, changes) as server:
        browser = await asyncio.create_subprocess_exec(
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            # What it does by itself: look for updates, of itself and of lists.
            *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
            # Any other name leads nowhere, and stands in the log.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom"),
            f"{server.url}/docs",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(90):
                shown, _ = await browser.communicate()
        finally:
            if browser.returncode is None:
                browser.kill()
                await browser.wait()
    assert b"Create Invocation" in shown
    # What the browser asks by itself has another initiator than the page.
    asked_by_the_page = set(
        re.findall(rf'"initiator":"{server.url}".{{0,400}}?"url":"([^"]+)"', log.read_text())
    )
    assert f"{server.url}/docs/style.css" in asked_by_the_page
    assert {url for url in asked_by_the_page if not url.startswith(f"{server.url}/")} == set()
