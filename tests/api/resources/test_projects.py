"""Projects: rules PRJ and DEL-3."""

from core.errors import (
    ProjectAlreadyExistsError,
    ProjectDoesNotExistError,
    ProjectNameIsTooLongError,
)
from registry.database.tables import Project
from registry.queries.projects import get_project
from tests.support.api import Api, assert_error


async def test_prj_1_projects_are_created_shown_and_listed_newest_first(api: Api) -> None:
    assert_error(await api.get("/projects/one"), 404, "A project with this name does not exist")
    assert await api.ok("GET", "/projects") == {"projects": []}

    created = await api.ok("PUT", "/projects/one")
    assert created["project_name"] == "one"
    assert type(created["creation_time"]) is int
    assert created["deletion_request_time"] is None
    assert await api.ok("GET", "/projects/one") == created

    second = await api.ok("PUT", "/projects/two")
    assert await api.ok("GET", "/projects") == {"projects": [second, created]}


async def test_prj_2_a_name_is_taken_once_and_the_first_is_kept(api: Api) -> None:
    first = await api.ok("PUT", "/projects/one")
    again = await api.put("/projects/one")
    assert_error(again, 409, "A project with this name already exists.")
    assert again.json()["detail"] == ProjectAlreadyExistsError.detail
    assert await api.ok("GET", "/projects/one") == first


async def test_prj_3_a_deletion_request_shows_and_the_first_time_is_kept(api: Api) -> None:
    await api.ok("PUT", "/projects/one")
    asked = await api.ok("DELETE", "/projects/one")
    assert type(asked["deletion_request_time"]) is int
    async with api.registry.transaction() as session:
        project = await session.get_one(Project, await _project_id(api, "one"))
        assert project.deletion_requested_at is not None
        project.deletion_requested_at = project.deletion_requested_at.replace(year=2020)
    earlier = (await api.ok("GET", "/projects/one"))["deletion_request_time"]
    assert earlier < asked["deletion_request_time"]
    assert (await api.ok("DELETE", "/projects/one"))["deletion_request_time"] == earlier


async def test_del_3_deleting_a_missing_project_is_404(api: Api) -> None:
    answer = await api.request("DELETE", "/projects/none")
    assert_error(answer, 404, ProjectDoesNotExistError.detail)


async def test_a_project_that_is_being_deleted_keeps_its_name_and_takes_no_version(
    api: Api,
) -> None:
    await api.ok("PUT", "/projects/one")
    await api.ok("DELETE", "/projects/one")
    assert (await api.put("/projects/one")).status_code == 409
    definition = {"default_docker_image": "i", "functions": []}
    refused = await api.post("/projects/one/versions", json=definition)
    assert_error(refused, 400, "The project is being deleted")
    # Validation comes before it.
    assert (await api.post("/projects/one/versions", json={})).status_code == 422


async def test_names_of_64_characters_are_accepted_and_longer_ones_refused(api: Api) -> None:
    await api.ok("PUT", f"/projects/{'x' * 64}")
    assert_error(await api.put(f"/projects/{'x' * 65}"), 400, ProjectNameIsTooLongError.detail)
    # Only creation judges the length.
    assert (await api.get(f"/projects/{'x' * 65}")).status_code == 404


async def test_names_may_hold_spaces_and_any_script(api: Api) -> None:
    await api.ok("PUT", "/projects/my%20caf%C3%A9%20%F0%9F%98%80")
    assert (await api.ok("GET", "/projects/my caf\u00e9 \U0001f600"))["project_name"] == (
        "my caf\u00e9 \U0001f600"
    )


async def test_a_body_on_a_request_that_takes_none_is_ignored(api: Api) -> None:
    await api.ok("PUT", "/projects/one", content=b"{not json")


async def _project_id(api: Api, name: str) -> str:
    async with api.registry.transaction() as session:
        return (await get_project(session, name=name)).id
