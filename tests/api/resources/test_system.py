"""The container repository's credentials, and addresses that open Temporal's web UI."""

import pytest
from pydantic import SecretStr

from api.views.shared import Links
from core.settings import ApiSettings
from tests.support.api import Api, assert_error
from tests.support.harness import UI_URL

INVOCATION_ID = f"inv-{'0' * 32}"
NOT_CONFIGURED = (404, "No container repository is configured on this server")


async def test_without_settings_there_are_no_credentials(api: Api) -> None:
    assert_error(await api.get("/container_repository_credentials"), *NOT_CONFIGURED)


@pytest.mark.parametrize(
    ("invocation_id", "page"), [(None, ""), (INVOCATION_ID, f"/{INVOCATION_ID}")]
)
async def test_a_ui_without_a_login_is_opened_by_its_address(
    api: Api, invocation_id: str | None, page: str
) -> None:
    body = {"invocation_id": invocation_id}
    link = await api.ok("POST", "/temporal_ui_links", json=body)
    workflows = "/namespaces/default/workflows" if page else ""
    assert link == {"url": f"{UI_URL}{workflows}{page}"}


@pytest.mark.parametrize("invocation_id", ["", "inv-1", f"{INVOCATION_ID}/../x", 1])
async def test_only_an_id_names_a_page(api: Api, invocation_id: object) -> None:
    body = {"invocation_id": invocation_id}
    answer = await api.request("POST", "/temporal_ui_links", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "invocation_id"]


def test_a_login_is_made_for_the_path_of_the_page() -> None:
    links = Links(
        temporal_ui_url="http://ui/below/",
        temporal_namespace="default",
        log_in=lambda path: f"http://ui/login?{path}",
    )
    assert links.opening(None) == "http://ui/login?/"
    assert links.opening("inv-1") == "http://ui/login?/namespaces/default/workflows/inv-1"


def test_without_an_address_of_the_ui_there_is_none() -> None:
    assert Links(temporal_ui_url=None, temporal_namespace="default").opening(None) is None


class TestWithSettings:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(
            container_repository_name="repo",
            container_repository_user="me",
            container_repository_password=SecretStr("secret"),
            container_repository_endpoint="https://registry.test",
        )

    async def test_the_credentials_come_from_them(self, api: Api) -> None:
        assert await api.ok("GET", "/container_repository_credentials") == {
            "repository_name": "repo",
            "username": "me",
            "password": "secret",
            "endpoint_url": "https://registry.test",
        }


class TestWithSomeSettings:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(
            container_repository_name="repo", container_repository_password=SecretStr("secret")
        )

    async def test_what_is_missing_is_named(self, api: Api) -> None:
        assert_error(
            await api.get("/container_repository_credentials"),
            404,
            "The container repository is only partly configured on this server: "
            "CONTAINER_REPOSITORY_USER, CONTAINER_REPOSITORY_ENDPOINT not set",
        )
