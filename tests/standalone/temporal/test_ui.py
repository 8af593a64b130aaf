"""Temporal's web UI behind its login; tried as a web page and as another account."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from api.http.server import bind
from standalone.temporal import ui_login
from standalone.temporal.closed_server import ClosedTemporal
from standalone.temporal.ui_login import LOGIN_PATH, UiLogin, made_up_url
from standalone.temporal.ui_server import serving_ui

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
COOKIE = "control_plane_temporal"


class Ui:
    """The UI as it is served, and browsers in front of it."""

    def __init__(self, port: int, login: UiLogin) -> None:
        self.port = port
        self.login = login

    def browser(self, **headers: str) -> httpx.AsyncClient:
        """One without a session; at first with the right Host."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"host": self.login.host, **headers},
            timeout=60,
        )

    async def logged_in(self, browser: httpx.AsyncClient, path: str = "/") -> None:
        answer = await browser.get(self.way(self.login.one_time_link(path)))
        assert (answer.status_code, answer.headers["location"]) == (303, path)
        # The name of the host is not one that httpx would send a cookie back to.
        session = re.match(rf"{COOKIE}=([^;]+); HttpOnly; Path=/; SameSite=strict$", cookie(answer))
        assert session is not None
        browser.headers["cookie"] = f"{COOKIE}={session[1]}"

    def way(self, url: str) -> str:
        """The path and query of an address of this UI."""
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc) == ("http", self.login.host)
        return f"{parts.path}?{parts.query}"


def cookie(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def ui(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ui]:
    folder = tmp_path_factory.mktemp("ui")
    with closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        login = UiLogin(made_up_url(port))
        async with (
            ClosedTemporal(folder, persistent=False) as server,
            serving_ui(listener, login, server.ui_client()),
            server.ui_client() as temporal,
        ):
            # The UI looked for the front end before that listened, and waits to try again.
            async with asyncio.timeout(60):
                while (await temporal.get("/api/v1/namespaces/default")).is_error:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.05)
            yield Ui(port, login)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_link_logs_one_browser_in_once(ui: Ui) -> None:
    async with ui.browser() as first, ui.browser() as second:
        link = ui.way(ui.login.one_time_link())
        assert (await first.get(link)).status_code == 303
        again = await second.get(link)
        assert again.status_code == 401
        assert "set-cookie" not in again.headers
        assert "control-plane ui" in again.text


async def test_a_link_that_is_too_old_works_no_more(
    ui: Ui, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_login, "LINK_SECONDS", -1)
    async with ui.browser() as browser:
        assert (await browser.get(ui.way(ui.login.one_time_link()))).status_code == 401


@pytest.mark.parametrize("token", ["", "?token=", "?token=x", "?token=%00", "?token=" + "x" * 9000])
async def test_a_made_up_link_works_not(ui: Ui, token: str) -> None:
    async with ui.browser() as browser:
        assert (await browser.get(f"{LOGIN_PATH}{token}")).status_code == 401


async def test_who_is_logged_in_sees_it(ui: Ui) -> None:
    async with ui.browser() as browser:
        await ui.logged_in(browser, "/namespaces/default/workflows/inv-1")
        page = await browser.get("/")
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        namespace = await browser.get("/api/v1/namespaces/default")
        assert namespace.json()["namespaceInfo"]["name"] == "default", namespace.text


@pytest.mark.parametrize("session", [None, "", "x", f"{COOKIE}=", f"{COOKIE}=x; {COOKIE}=y"])
@pytest.mark.parametrize("path", ["/", "/api/v1/namespaces", "/favicon.ico", "/_control-plane/x"])
async def test_who_is_not_sees_nothing(ui: Ui, path: str, session: str | None) -> None:
    headers = {} if session is None else {"cookie": session}
    async with ui.browser(**headers) as browser:
        answer = await browser.get(path)
        assert answer.status_code == 401
        assert "control-plane ui" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1", "", "T.localhost"])
async def test_another_name_of_the_host_is_not_answered(ui: Ui, host: str) -> None:
    """A page of another name can have it point to this machine, and then read the answers."""
    async with ui.browser() as browser:
        await ui.logged_in(browser)
        browser.headers["host"] = f"{host}:{ui.port}" if host else host
        link = ui.login.one_time_link()
        for path in ("/", "/api/v1/namespaces", ui.way(link)):
            assert (await browser.get(path)).status_code in {400, 421}
        browser.headers["host"] = ui.login.host
        assert (await browser.get(ui.way(link))).status_code == 303


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_page_of_another_site_gets_nothing(ui: Ui, site: str, method: str) -> None:
    """Pages on other ports of this host are of the same site, and send its cookies."""
    async with ui.browser() as browser:
        await ui.logged_in(browser)
        headers = {"sec-fetch-site": site}
        answer = await browser.request(method, "/api/v1/namespaces", headers=headers)
        assert answer.status_code == 403


async def test_something_is_changed_with_the_token_of_temporals_ui_alone(ui: Ui) -> None:
    start = "/api/v1/namespaces/default/workflows/by-hand"
    body = {"workflowType": {"name": "Anything"}, "taskQueue": {"name": "nobody-listens"}}
    async with ui.browser() as browser:
        await ui.logged_in(browser)
        refused = await browser.post(start, json=body)
        assert refused.status_code in {400, 403}
        page = await browser.get("/api/v1/settings")
        token = re.match(r"_csrf=([^;]+)", cookie(page))
        assert token is not None
        browser.headers["cookie"] += f"; _csrf={token[1]}"
        # The UI goes by its page's address, which is not the one that httpx asks.
        headers = {"x-csrf-token": token[1], "origin": ui.login.url}
        started = await browser.post(start, json=body, headers=headers)
        assert started.status_code == 200, started.text
        assert "runId" in started.json()


async def test_a_body_that_is_too_large_is_refused(ui: Ui) -> None:
    async with ui.browser() as browser:
        await ui.logged_in(browser)
        answer = await browser.post("/api/v1/namespaces", content=b"x" * (4 * 1024 * 1024 + 1))
        assert answer.status_code == 413


async def test_links_and_sessions_are_bounded(ui: Ui) -> None:
    login = UiLogin(made_up_url(ui.port))
    links = [login.one_time_link() for _ in range(ui_login.MOST_LINKS + 1)]
    tokens = [link.partition("=")[2] for link in links]
    assert login.open_link(tokens[0]) is None
    first = login.open_link(tokens[1])
    assert first is not None
    for _ in range(ui_login.MOST_SESSIONS):
        assert login.open_link(login.one_time_link().partition("=")[2]) is not None
    assert not login.knows(first[0])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
async def test_a_browser_shows_it_and_asks_no_other_host(ui: Ui, tmp_path: Path) -> None:
    log = tmp_path / "network.json"
    browser = await asyncio.create_subprocess_exec(
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
        f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {urlsplit(ui.login.url).hostname}",
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}"),
        # Its own clock, which stands still while the page waits for an answer.
        *("--virtual-time-budget=30000", "--dump-dom"),
        ui.login.one_time_link("/namespaces/default/workflows"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(120):
            shown, _ = await browser.communicate()
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    # Links that its scripts have made.
    for name in (b"workflows", b"schedules"):
        assert b'href="/namespaces/default/' + name in shown, shown
    events = json.loads(log.read_text())["events"]
    asked = {
        (event["params"].get("initiator"), event["params"]["url"])
        for event in events
        if "url" in event.get("params", {})
    }
    by_the_page = {url for initiator, url in asked if initiator == ui.login.url}
    assert f"{ui.login.url}/api/v1/settings" in {url.partition("?")[0] for url in by_the_page}
    assert {url for url in by_the_page if not url.startswith(f"{ui.login.url}/")} == set()
