"""The container repository's credentials."""

import pytest
from pydantic import SecretStr

from core.settings import ApiSettings
from tests.support.api import Api, assert_error

NOT_CONFIGURED = (404, "No container repository is configured on this server")


async def test_without_settings_there_are_no_credentials(api: Api) -> None:
    assert_error(await api.get("/container_repository_credentials"), *NOT_CONFIGURED)


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
